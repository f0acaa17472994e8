"""UMT5 through the same door as the published one: a folder of transformers with a real tokenizer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualforce_model.captions import TEXT_TOKENS
from dualforce_model.config import ConfigError
from dualforce_model.encoders import Encoder, Umt5, Umt5Config, make_encoder
from dualforce_model.encoders.umt5 import TOKENIZER_FILES, TOKENIZER_FOLDER, clean_prompt
from dualforce_model.pretrained import DamagedWeightsError, MissingWeightsError

CAPTIONS = ("a man is talking to the camera", "a woman", "a person is smiling .")


@pytest.fixture
def copy(tiny_umt5: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return Path(shutil.copytree(tiny_umt5, tmp_path / "umt5"))


def encoder(folder: Path, **config: Any) -> Umt5:
    loaded: Umt5 = make_encoder("umt5", {"weights": folder, "precision": "fp32", **config})
    loaded.load()
    return loaded


def test_it_is_an_encoder(tiny_umt5: Path) -> None:
    built = make_encoder("umt5", {"weights": tiny_umt5})
    assert isinstance(built, Encoder)
    assert (built.name, built.modality, built.num_features) == ("umt5", "text", 32)
    assert built.config == Umt5Config(weights=tiny_umt5)


def test_tokens_are_those_of_the_published_class_as_wan_calls_it(tiny_umt5: Path) -> None:
    from transformers import AutoTokenizer, UMT5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_umt5)
    net = UMT5EncoderModel.from_pretrained(tiny_umt5, dtype=torch.float32).eval()
    told = tokenizer(list(CAPTIONS), padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt")
    with torch.no_grad():
        padded = net(told.input_ids, told.attention_mask).last_hidden_state
    counts = told.attention_mask.sum(1).tolist()
    assert counts == [8, 3, 6]
    for caption, found, theirs in zip(CAPTIONS, encoder(tiny_umt5)(CAPTIONS), padded, strict=True):
        assert found.dtype == np.float32
        assert found.shape == (len(caption.split()) + 1, 32)
        np.testing.assert_allclose(found, theirs[: len(found)].numpy(), atol=5e-6)


def test_alone_and_in_a_batch_captions_agree(tiny_umt5: Path) -> None:
    encode = encoder(tiny_umt5)
    for caption, together in zip(CAPTIONS, encode(CAPTIONS), strict=True):
        np.testing.assert_allclose(encode([caption])[0], together, atol=5e-6)
    assert encode([]) == []


def test_no_dropout_is_at_work(tiny_umt5: Path) -> None:
    encode = encoder(tiny_umt5)
    assert np.array_equal(encode(CAPTIONS)[0], encode(CAPTIONS)[0])


def test_half_precision_stays_close(tiny_umt5: Path) -> None:
    exact, half = encoder(tiny_umt5)(CAPTIONS[:1])[0], encoder(tiny_umt5, precision="bf16")(CAPTIONS[:1])[0]
    assert half.dtype == np.float32
    assert 0 < np.abs(exact - half).max() < 0.1
    assert Umt5Config().precision == "bf16"


@pytest.mark.parametrize(("max_tokens", "count"), [(TEXT_TOKENS, TEXT_TOKENS), (5, 5)])
def test_long_captions_are_cut_and_keep_their_end_mark(tiny_umt5: Path, max_tokens: int, count: int) -> None:
    encode = encoder(tiny_umt5, max_tokens=max_tokens)
    (cut,) = encode(["a man " * 400])
    assert cut.shape == (count, 32)
    head = encode._tokenizer("a man " * 400, truncation=True, max_length=max_tokens).input_ids
    assert head[-1] == 1


def test_an_empty_caption_is_the_end_mark_alone(tiny_umt5: Path) -> None:
    assert encoder(tiny_umt5)([""])[0].shape == (1, 32)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a &amp; b", "a & b"),
        ("a &amp;amp; b", "a & b"),
        ("&lt;b&gt;", "<b>"),
        (" a\n  b\u00a0&nbsp;c ", "a b c"),
        ("&#x41;", "A"),
    ],
)
def test_prompts_are_cleaned_as_wan_does(text: str, clean: str) -> None:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean  # ftfy, where it is installed, leaves these alone

    assert clean_prompt(text) == clean == prompt_clean(text)


def test_code_in_a_tokenizer_s_folder_is_not_run(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where somebody at a terminal would say yes to all that is asked."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, mark = tmp_path / TOKENIZER_FOLDER, tmp_path / "was run"
    folder.mkdir()
    for name in TOKENIZER_FILES:
        if (copy / name).is_file():
            (copy / name).rename(folder / name)
    (folder / "theirs.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Theirs: ...\n")
    path = folder / "tokenizer_config.json"
    theirs = {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Theirs", "theirs.Theirs"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | theirs))
    with pytest.raises(DamagedWeightsError, match="contains custom code"):
        encoder(copy)
    assert not mark.exists()


def test_the_fingerprint_is_of_what_decides_the_numbers(tiny_umt5: Path, copy: Path) -> None:
    base = make_encoder("umt5", {"weights": tiny_umt5}).fingerprint()
    assert make_encoder("umt5", {"weights": copy}).fingerprint() == base
    (copy / "README.md").write_text("nothing of weight")
    assert make_encoder("umt5", {"weights": copy}).fingerprint() == base
    others = [make_encoder("umt5", {"weights": copy, **each}) for each in ({"max_tokens": 5}, {"precision": "fp32"})]
    (copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend"}))
    others.append(make_encoder("umt5", {"weights": copy}))
    prints = [each.fingerprint() for each in others]
    assert len({base, *prints}) == 4


def test_wans_releases_have_two_folders(copy: Path, tiny_umt5: Path, tmp_path: Path) -> None:
    for folder, names in (("text_encoder", ["config.json", "model.safetensors"]), ("tokenizer", ["tokenizer*"])):
        (tmp_path / "wan" / folder).mkdir(parents=True)
        for path in [path for name in names for path in copy.glob(name)]:
            shutil.move(path, tmp_path / "wan" / folder)
    (tmp_path / "wan" / "model_index.json").write_text("{}")
    for place in (tmp_path / "wan", tmp_path / "wan" / "text_encoder"):
        assert make_encoder("umt5", {"weights": place}).fingerprint() == (
            make_encoder("umt5", {"weights": tiny_umt5}).fingerprint()
        )
    assert np.array_equal(encoder(tmp_path / "wan")(CAPTIONS)[1], encoder(tiny_umt5)(CAPTIONS)[1])


def test_the_whole_translator_is_read_without_its_decoder(copy: Path) -> None:
    from transformers import UMT5Config, UMT5ForConditionalGeneration

    torch.manual_seed(0)
    whole = UMT5ForConditionalGeneration(UMT5Config.from_pretrained(copy))
    whole.save_pretrained(copy)
    assert any(name.startswith("decoder.") for name in whole.state_dict())
    assert encoder(copy)(CAPTIONS)[0].shape == (8, 32)


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def put(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        said = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**said, **changes}))

    return change


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return change


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (drop("config.json"), MissingWeightsError, "config.json"),
        (drop("tokenizer.json"), DamagedWeightsError, "no tokenizer.json"),
        (put("config.json", model_type="bert"), DamagedWeightsError, "model_type 'bert'"),
        (put("config.json", d_model="wide"), DamagedWeightsError, "d_model"),
        (put("config.json", vocab_size=0), DamagedWeightsError, "vocab_size"),
    ],
)
def test_a_wrong_folder_is_refused_when_it_is_built(
    copy: Path, damage: Callable[[Path], None], error: type[Exception], said: str
) -> None:
    damage(copy)
    with pytest.raises(error, match=said):
        make_encoder("umt5", {"weights": copy})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (put("config.json", d_model=64), "not a model that umt5 can use"),
        (put("config.json", num_layers=3), "not a model that umt5 can use"),
        (put("config.json", vocab_size=20), "tokens up to 45, the net has 20"),
        (put("tokenizer_config.json", pad_token=None), "no padding"),
        (write("tokenizer.json", b"[" * 2000), "tokenizer"),
        (write("model.safetensors", b"\x00" * 64), "not a model that umt5 can use"),
    ],
)
def test_a_damaged_folder_is_refused_when_it_is_read(copy: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(copy)
    built = make_encoder("umt5", {"weights": copy})
    with pytest.raises(DamagedWeightsError, match=said):
        built.load()


def test_missing_weights_name_the_remedy(tmp_path: Path, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match="dualforce weights pull umt5"):
        make_encoder("umt5", {"weights": copy}).fingerprint()
    with pytest.raises(MissingWeightsError, match="umt5"):
        make_encoder("umt5", {"weights": tmp_path / "nowhere"})


@pytest.mark.parametrize("config", [{"precision": "fp16"}, {"max_tokens": 513}, {"hub": "google/umt5-xxl"}])
def test_settings_that_cannot_be(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_encoder("umt5", config)


@pytest.mark.parametrize("two_folders", [False, True])
def test_a_repository_of_the_hub_in_its_cache(
    tiny_umt5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_folders: bool
) -> None:
    from huggingface_hub import constants

    commit = "c" * 40
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--somebody--umt5" / "snapshots" / commit
    if two_folders:
        shutil.copytree(tiny_umt5, root / "tokenizer", ignore=shutil.ignore_patterns("model*", "config.json"))
        shutil.copytree(tiny_umt5, root / "text_encoder", ignore=shutil.ignore_patterns("tokenizer*"))
    else:
        shutil.copytree(tiny_umt5, root)
    pinned = make_encoder("umt5", {"hub": "somebody/umt5", "revision": commit})
    assert pinned.fingerprint() == make_encoder("umt5", {"weights": tiny_umt5}).fingerprint()
    pinned.load()
    assert pinned(["a man"])[0].shape == (3, 32)


def test_the_tokenizer_is_pulled_too() -> None:
    assert {"tokenizer.json", "tokenizer/tokenizer.json", "text_encoder/config.json"} <= set(Umt5.form.parts)
