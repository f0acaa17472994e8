"""A text encoder of a few thousand weights as transformers saves one, for tests of all that reads such a folder."""

from pathlib import Path

WORDS = ["a", "man", "woman", "person", "is", "talking", "smiling", "to", "the", "camera", "."]


def save_tiny_umt5(folder: Path) -> None:
    """A UMT5 of width 32 with a unigram tokenizer of its own, the same each time."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS), "▁", *map(chr, range(97, 123)), *"&<>A."]
    unigram = Tokenizer(models.Unigram([(piece, -float(rank)) for rank, piece in enumerate(pieces)], unk_id=2))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UMT5EncoderModel(
            UMT5Config(
                vocab_size=128,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
            )
        )
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
