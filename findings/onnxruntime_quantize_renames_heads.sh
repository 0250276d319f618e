#!/usr/bin/env bash
# onnxruntime's dynamic quantization takes a classification head that it was told to leave out.
#
# onnxruntime 1.32.0. PyTorch exports a linear layer on pooled states as a Gemm node. `quantize_dynamic` first turns every
# Gemm with constant weights into a MatMul and an Add, and calls the MatMul by the Gemm's name with "_MatMul" behind it.
# Only then does it look at what to leave out: `nodes_to_exclude=["head"]` names a node that is no longer there, and the
# head is quantized without a word; `op_types_to_quantize=["Gemm"]` finds nothing to quantize, and `["MatMul"]` takes
# the head along. Only "head_MatMul", a name that stands in no file, leaves the head out.
#
# What one would guess: a node that is excluded by its name stays as it is, or an unknown name is an error.
# Exits 0 while this is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 sympy==1.14.0
venv/bin/python - <<'PY'
import logging

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

logging.disable(logging.WARNING)
print("onnxruntime", onnxruntime.__version__)
drawn = numpy.random.default_rng(7)
body = numpy_helper.from_array(drawn.normal(size=(32, 32)).astype("float32"), "body.weight")
head = numpy_helper.from_array(drawn.normal(size=(32, 2)).astype("float32"), "head.weight")
bias = numpy_helper.from_array(numpy.zeros(2, "float32"), "head.bias")
nodes = [
    helper.make_node("MatMul", ["states", "body.weight"], ["mixed"], name="body"),
    helper.make_node("Relu", ["mixed"], ["pooled"], name="between"),
    helper.make_node("Gemm", ["pooled", "head.weight", "head.bias"], ["logits"], name="head"),
]
states = helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", 32])
logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
graph = helper.make_graph(nodes, "classifier", [states], [logits], [body, head, bias])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "whole.onnx")

expected = {
    "nothing left out": ({}, 2),
    "nodes_to_exclude=['head']": ({"nodes_to_exclude": ["head"]}, 2),
    "nodes_to_exclude=['no such node']": ({"nodes_to_exclude": ["no such node"]}, 2),
    "op_types_to_quantize=['MatMul']": ({"op_types_to_quantize": ["MatMul"]}, 2),
    "op_types_to_quantize=['Gemm']": ({"op_types_to_quantize": ["Gemm"]}, 0),
    "nodes_to_exclude=['body']": ({"nodes_to_exclude": ["body"]}, 1),
    "nodes_to_exclude=['head_MatMul']": ({"nodes_to_exclude": ["head_MatMul"]}, 1),
}
ok = True
for name, (settings, count) in expected.items():
    quantize_dynamic("whole.onnx", "small.onnx", **settings)
    kinds = [node.op_type for node in onnx.load("small.onnx").graph.node]
    print(f"{name}: {kinds.count('MatMulInteger')} of 2 layers in 8 bits")
    ok &= kinds.count("MatMulInteger") == count
print("as described" if ok else "CHANGED")
raise SystemExit(0 if ok else 1)
PY
