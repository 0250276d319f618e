#!/usr/bin/env bash
# llama.cpp reads both texts of a pair as the first segment of a BERT, so cross-encoders answer otherwise than in PyTorch.
#
# xllamacpp 2026.10.11549 (llama.cpp in a wheel). BERT has an embedding for each of two segments; a cross-encoder's second
# text has that of segment 1 (`token_type_ids`). llama.cpp has the table of segments from the file and adds row 0 to every
# token: there is no way to say where the second text begins. The states that it gives for "[CLS] a [SEP] b [SEP]" are
# those of transformers with all `token_type_ids` zero, not those of the pair. Models without segments (RoBERTa's kind) and
# single texts are not concerned.
#
# What one would guess: segments as the model was trained with them, or a refusal.
# Exits 0 while this is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 gguf==0.19.0 \
    xllamacpp==2026.10.11549
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
venv/bin/python - <<'PY'
import gguf
import numpy
import torch
import transformers
import xllamacpp
from transformers import BertConfig, BertModel

print("transformers", transformers.__version__)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁rain", "▁sun", "▁falls", "▁shines"]
torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=64, initializer_range=0.5,
)
model = BertModel(config, add_pooling_layer=False).eval()

writer = gguf.GGUFWriter("bert.gguf", "bert")
writer.add_context_length(64)
writer.add_embedding_length(32)
writer.add_feed_forward_length(64)
writer.add_block_count(1)
writer.add_head_count(2)
writer.add_layer_norm_eps(config.layer_norm_eps)
writer.add_causal_attention(False)
writer.add_pooling_type(gguf.PoolingType.CLS)
writer.add_file_type(gguf.LlamaFileType.ALL_F32)
writer.add_tokenizer_model("bert")
writer.add_token_list(words)
writer.add_token_types([gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL] * 4)
writer.add_token_type_count(2)
for name, index in (("pad", 0), ("unk", 1), ("sep", 3), ("bos", 2), ("eos", 3)):
    getattr(writer, f"add_{name}_token_id")(index)
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, 1)
for name, weight in model.state_dict().items():
    known = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if known:
        writer.add_tensor(known, weight.numpy().astype(numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.n_ctx, parameters.n_parallel = "bert.gguf", 64, 1
parameters.n_gpu_layers, parameters.warmup, parameters.verbosity = 0, False, -1
parameters.embedding = True
parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_CLS
server = xllamacpp.Server(parameters)


def by_llama_cpp(ids):
    found = server.handle_embeddings({"input": [ids], "encoding_format": "float"})
    vector = torch.tensor(found["data"][0]["embedding"])
    return vector / vector.norm()


def by_transformers(ids, segments):
    with torch.no_grad():
        states = model(torch.tensor([ids]), token_type_ids=torch.tensor([segments])).last_hidden_state
    return states[0, 0] / states[0, 0].norm()


def difference(ids, segments):
    return float((by_llama_cpp(ids) - by_transformers(ids, segments)).abs().max())


single, pair = [2, 4, 6, 3], [2, 4, 6, 3, 5, 7, 3]
one, zeros, right = (
    difference(single, [0] * 4), difference(pair, [0] * 7), difference(pair, [0, 0, 0, 0, 1, 1, 1])
)
print(f"largest difference of the state at [CLS]: one text {one:.5f}; a pair, all in segment 0 {zeros:.5f}; a pair in its")
print(f"two segments {right:.5f}")
ok = one < 2e-3 and zeros < 2e-3 and right > 0.02
print("as described" if ok else "CHANGED")
raise SystemExit(0 if ok else 1)
PY
