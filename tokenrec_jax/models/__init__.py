"""Neural modules: arrays in, arrays out.

Here live the graph encoder (`lightgcn.py`), the tokenizers (`quantization.py`, `tokenizer.py`), the language
models (`llm/`), the projection into item space and the model that joins them (`tokenrec.py`; read it first).
Losses, optimisers and loops are in `training/`. Nothing here touches a file, except `llm/hf_weights.py`, the
one place that knows the Hugging Face checkpoint format.

All modules are Flax NNX and hold no random state: dropout is on where a key is given and off where it is
None.
"""
