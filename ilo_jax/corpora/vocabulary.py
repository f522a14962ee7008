"""A vocabulary learnt from documents, and the tokenizer that cuts text up by it.

Tokens are of bytes, so that every text has some and is had back from them. Bytes are joined within
words only, each with the space before it. A word is letters and the marks on them, unlike in
GPT-2's pattern, which cuts Devanagari, Thai and other scripts at every vowel sign.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from ilo_jax.corpora.documents import Documents, place
from ilo_jax.corpora.shares import sampled
from ilo_jax.files import write_text
from ilo_jax.processes import quiet

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

Kind = Literal["bpe", "unigram"]
"""How tokens are found: frequent pairs are merged (Sennrich et al., 2016), or those of many are
kept under which the text is likeliest (Kudo, 2018)."""

DECODER = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
"""Special tokens of a causal model, by what they are for, in the order of their ids."""

ENCODER = DECODER | {
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "cls_token": "<s>",
    "sep_token": "</s>",
}
"""Those of a masked model. No text has an unknown token; losses and models ask for one."""

WORD = r" ?[\p{L}\p{M}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""What tokens are within: letters with their marks, three digits, signs, or white space."""

LONGEST = 48
"""Bytes that a token has at most: 16 letters of most scripts of Asia."""

MOST = 2**28
"""Bytes of text that a vocabulary is learnt from, at most."""


def train_vocabulary(
    documents: Documents,
    *,
    kind: Kind,
    size: int,
    alpha: float,
    masked: bool,
    most: int = MOST,
) -> "PreTrainedTokenizerFast":
    """A tokenizer whose tokens are learnt from documents, and never from those held out.

    Languages are sampled by `shares.sampled`, so that large ones do not own the vocabulary: of the
    bytes that are learnt from, each has its share, and documents come more than once, or only some
    of them, chosen by their digest. There are as many bytes as the documents have, or `most`.

    It puts the BOS token before a text, and for a masked model the EOS token behind it.

    The same documents give the same tokenizer by "bpe". By "unigram" they give nearly the same:
    `tokenizers` adds up likelihoods in another order each time, and rounds them so.

    Args:
        documents: To learn from.
        kind: How tokens are found.
        size: Number of tokens, special ones and all 256 bytes among them.
        alpha: From 0, all languages alike, to 1, by their size.
        masked: Whether special tokens are those of a masked model, `ENCODER`, or `DECODER`.
        most: Bytes to learn from.

    Raises:
        ValueError: If alpha is outside its range, or the size too small for bytes and special
            tokens, or larger than what the documents fill.
    """
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    special = ENCODER if masked else DECODER
    least = 256 + len(set(special.values()))
    if size < least:
        raise ValueError(
            f"a vocabulary must have {least} tokens or more, 256 bytes and the special ones, "
            f"got {size}"
        )
    words = Tokenizer(models.BPE() if kind == "bpe" else models.Unigram())
    words.pre_tokenizer = _pre_tokenizer()  # pyright: ignore (a property of another module)
    words.decoder = decoders.ByteLevel()  # pyright: ignore
    _learn(words, sampled_texts(documents, alpha=alpha, most=most), kind, size, special)
    if (filled := words.get_vocab_size()) < size:
        raise ValueError(
            f"a vocabulary must be no larger than its text can fill: {documents.source} fills "
            f"{filled} tokens, got {size}; ask for fewer, or give more text"
        )
    words.post_processor = _post_processor(words, masked=masked)  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=words, clean_up_tokenization_spaces=False, **special
    )


def sampled_texts(documents: Documents, *, alpha: float, most: int) -> Iterator[str]:
    """Yield documents to learn from, as often as the share of their language says.

    Args:
        documents: Of which those not held out.
        alpha: From 0, all languages alike, to 1, by their size.
        most: Bytes to yield; fewer if the documents have fewer. Met but for chance.

    Raises:
        ValueError: If alpha is outside its range.
    """
    sizes = {language: each.learnt_bytes for language, each in documents.census.items()}
    total = min(most, sum(sizes.values()))
    for language, share in sampled(sizes, alpha=alpha).items():
        often, rest = divmod(share * total / sizes[language], 1)
        for text in documents.learnt(language):
            yield from [text] * (int(often) + (place(text, of="vocabulary") < rest))


def save_vocabulary(tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Write a tokenizer's files into a folder: tokenizer_config.json, and then tokenizer.json.

    `transformers.AutoTokenizer` and `models.hub.tokenizer` load it from there, whatever model is
    beside it.

    Args:
        tokenizer: From `train_vocabulary`.
        folder: Made if it is not there.

    Raises:
        OSError: If it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    roles = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    # The name of the class in transformers 4, which 5 understands too.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_text(folder / "tokenizer_config.json", json.dumps(settings | roles, indent=2))
    write_text(folder / "tokenizer.json", tokenizer.backend_tokenizer.to_str(pretty=True))


def _learn(
    words: "Tokenizer", texts: Iterator[str], kind: Kind, size: int, special: dict[str, str]
) -> None:
    """Give a tokenizer its tokens."""
    from tokenizers import pre_tokenizers, trainers

    settings = {
        "vocab_size": size,
        "special_tokens": list(dict.fromkeys(special.values())),
        "initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet()),
        "show_progress": False,
    }
    if kind == "bpe":
        trainer = trainers.BpeTrainer(max_token_length=LONGEST, **settings)
    else:
        trainer = trainers.UnigramTrainer(max_piece_length=LONGEST, **settings)
    shown = tqdm(texts, "vocabulary", unit=" documents", leave=False, disable=quiet())
    words.train_from_iterator(shown, trainer)


def _pre_tokenizer() -> Any:
    from tokenizers import Regex, pre_tokenizers

    cut = pre_tokenizers.Split(Regex(WORD), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([cut, in_bytes])


def _post_processor(words: "Tokenizer", *, masked: bool) -> Any:
    """Puts the special tokens around one text, or two."""
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(
        single="<s> $A </s>" if masked else "<s> $A",
        pair="<s> $A </s> $B </s>" if masked else "<s> $A $B",
        special_tokens=[(token, words.token_to_id(token)) for token in ("<s>", "</s>")],
    )
