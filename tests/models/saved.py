"""Folders of every family as `transformers` saves them: model and tokenizer, nothing edited."""

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ilo_jax.corpora import parallel
from tests.models.variants import VARIANTS, family, perturb

LANGUAGES = ("eng_Latn", "zho_Hans", "rus_Cyrl", "hin_Deva")
"""Of whose sentences the vocabularies are made."""
VOCAB = 500
POSITIONS = 512
"""Of sentences that a vocabulary of `VOCAB` cuts into."""

FIRST = {family(variant): variant for variant in reversed(VARIANTS)}
"""The first variant of every family."""
LENGTHS = {"gpt2": "n_positions", "bloom": "seq_length"}
"""What families call `max_position_embeddings`."""
ENDS = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertTokenizer", {}),
    "cohere": ("CohereTokenizer", {"add_bos_token": True}),
    "cohere2": ("CohereTokenizer", {"add_bos_token": True}),
    "distilbert": ("DistilBertTokenizer", {}),
    "gemma": ("GemmaTokenizer", {"add_bos_token": True}),
    "gemma2": ("GemmaTokenizer", {"add_bos_token": True}),
    "gemma3_text": ("GemmaTokenizer", {"add_bos_token": True}),
    "gpt2": ("GPT2Tokenizer", {}),
    "gpt_neox": ("GPTNeoXTokenizer", {}),
    "llama": ("LlamaTokenizer", {"add_bos_token": True}),
    "mistral": ("LlamaTokenizer", {"add_bos_token": True}),
    "olmo2": ("GPT2Tokenizer", {"pad_token": "<|pad|>"}),
    "opt": ("GPT2Tokenizer", ENDS | {"add_bos_token": True}),
    "phi3": ("LlamaTokenizer", {"pad_token": "<|endoftext|>"}),
    "qwen2": ("Qwen2Tokenizer", {}),
    "qwen3": ("Qwen2Tokenizer", {}),
    "roberta": ("RobertaTokenizer", {}),
    "xglm": ("XGLMTokenizer", {}),
    "xlm-roberta": ("XLMRobertaTokenizer", {}),
}
"""The tokenizer of every family but BLOOM, which has no class of its own, and its settings."""


def sentences(count: int) -> list[str]:
    """Return the first sentences of every language."""
    corpus = parallel.sample()
    own = (corpus.sentences[corpus.languages.index(code)] for code in LANGUAGES)
    return [sentence for language in own for sentence in language[:count]]


def _empty(model_type: str) -> Any:
    """Return a tokenizer of a family that knows no text yet."""
    if model_type in CLASSES:
        name, settings = CLASSES[model_type]
        return getattr(transformers, name)(**settings)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def tokenizer(model_type: str) -> Any:
    """Return a tokenizer of a family's class, its vocabulary made of the sample corpus."""
    trained = _empty(model_type).train_new_from_iterator(sentences(40), vocab_size=VOCAB)
    if CLASSES.get(model_type, ("", {}))[1].get("add_bos_token"):
        trained.add_bos_token = True
    return trained


def save(model_type: str, folder: Path) -> tuple[Any, Any]:
    """Save a model of a family with a tokenizer of its class, and return both."""
    words = tokenizer(model_type)
    kind, config = VARIANTS[FIRST[model_type]]
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    sizes = {
        "vocab_size": len(words),
        LENGTHS.get(model_type, "max_position_embeddings"): POSITIONS,
    }
    ids = {name: getattr(words, name) for name in names}
    model = kind(kind.config_class(**config | sizes | ids)).eval()
    perturb(model, seed=0)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model, words
