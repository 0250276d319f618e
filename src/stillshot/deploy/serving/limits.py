"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is taken on at once, and how long it may take. The only place with these defaults.

    A row is one input of a request. Together the limits bound the memory that any clients can make a server
    take: bodies by ``buffered_bytes``, rows by ``queue_rows``, each worker's forward pass by ``batch_tokens``.

    Attributes:
        body_bytes: Of one request's body.
        inputs: Rows of one request.
        requests: Requests that are read, waiting or answered at one time.
        buffered_bytes: Of all bodies of these.
        queue_rows: Rows of one student that wait for a batch.
        teacher_queue_rows: The same of a teacher, which takes seconds a row.
        batch_rows: Rows of one batch; 1 switches batching off.
        batch_tokens: Tokens of one forward pass, padding included, in all sequences of its rows (a channel student reads
            one a label); a longer row is a pass of its own.
        wait_seconds: How long a row waits for others to share its batch while another is computed.
        send_seconds: How long a client may take to send a request's head, and its body.
        receive_seconds: How long a client may take to receive the next ``receive_bytes`` of a response, or its rest.
        receive_bytes: See ``receive_seconds``.
        connections: Open at one time, idle ones included; fewer where the system lets the process open fewer files.
        spare_connections: Of clients beyond these, which are answered at ``/health`` alone.
        timeout_seconds: How long a request may wait and be computed.
    """

    body_bytes: int = 2_000_000
    inputs: int = 256
    requests: int = 512
    buffered_bytes: int = 64_000_000
    queue_rows: int = 1024
    teacher_queue_rows: int = 8
    batch_rows: int = 32
    batch_tokens: int = 8192
    wait_seconds: float = 0.005
    send_seconds: float = 10.0
    receive_seconds: float = 10.0
    receive_bytes: int = 16_384
    connections: int = 1024
    spare_connections: int = 16
    timeout_seconds: float = 60.0
