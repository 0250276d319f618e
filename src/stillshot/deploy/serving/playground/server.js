// Requests to the server that this page came from.

const TOKEN = "stillshot-token";

/** Why a request was not answered; `status` is 0 where the server was not reached. */
export class RequestProblem extends Error {
  constructor(message, status, retrySeconds = 1) {
    super(message);
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

/** Whether a text can be a token: a header takes no other characters. */
export function isToken(text) {
  return /^[\x21-\x7e]+$/.test(text);
}

export function rememberToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
}

/** The JSON answer and its headers. Without a body it is a GET. */
export async function ask(path, body, signal) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestProblem("The server cannot be reached. Is it still running?", 0);
  }
  let content;
  try {
    content = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestProblem(`The server answered with ${response.status} and no JSON.`, response.status);
  }
  if (!response.ok) {
    const seconds = Number(response.headers.get("retry-after")) || 1;
    throw new RequestProblem(content.error ?? `The server answered with ${response.status}.`, response.status, seconds);
  }
  return { content, headers: response.headers };
}
