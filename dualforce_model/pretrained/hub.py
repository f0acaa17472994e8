"""Models that are folders of files on the Hugging Face hub, and how files there are named."""

from dualforce_model.pretrained.record import PublishedFile, Weights

HUB = "https://huggingface.co"
REPOSITORY = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
COMMIT = r"^[0-9a-f]{40}$"
WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAN_COMMIT = "0fad780a534b6463e45facd96134c9f345acfa5b"


def commit_folder(repository: str, commit: str) -> str:
    """Where files of any repository lie below WEIGHTS_FOLDER, by the names that they have in it."""
    return f"hub/{repository.replace('/', '--')}/{commit}"


def hub_files(repository: str, commit: str, *rows: tuple[str, str, int]) -> tuple[PublishedFile, ...]:
    """Files of the hub at a commit, from (path, digest, size). They lie together in the model's folder."""
    return tuple(
        PublishedFile(path.rpartition("/")[2], f"{HUB}/{repository}/resolve/{commit}/{path}", sha256, num_bytes)
        for path, sha256, num_bytes in rows
    )


# config.json comes last: a folder counts as the model from then on.
FOLDERS = (
    Weights(
        name="hubert",
        setting="the encoder's weights",
        pattern="",
        folder="hubert-large-ll60k",
        origin="HuBERT large (facebook/hubert-large-ll60k)",
        licence="Apache-2.0",
        url=f"{HUB}/facebook/hubert-large-ll60k",
        needed_by="extract: audio by hubert",
        revision="ff022d095678a2995f3c49bab18a96a9e553f782",
        files=hub_files(
            "facebook/hubert-large-ll60k",
            "ff022d095678a2995f3c49bab18a96a9e553f782",
            ("pytorch_model.bin", "", 0),
            ("preprocessor_config.json", "", 0),
            ("config.json", "", 0),
        ),
    ),
    Weights(
        name="dinov2",
        setting="the encoder's weights",
        pattern="",
        folder="dinov2-base",
        origin="DINOv2 base (facebook/dinov2-base)",
        licence="Apache-2.0",
        url=f"{HUB}/facebook/dinov2-base",
        needed_by="extract: reference by dinov2",
        revision="f9e44c814b77203eaa57a6bdbbd535f21ede1415",
        files=hub_files(
            "facebook/dinov2-base",
            "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
            ("model.safetensors", "d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841", 346_345_912),
            ("preprocessor_config.json", "", 0),
            ("config.json", "f7ff4cfa73d2f70647dbf6950541ad25d73082d54c2e7e9bded160c7656b2a70", 0),
        ),
    ),
    Weights(
        name="clip",
        setting="the encoder's weights",
        pattern="",
        folder="clip-vit-large-patch14",
        origin="CLIP ViT-L/14 (openai/clip-vit-large-patch14)",
        licence="MIT (of the project; the hub's page names none)",
        url=f"{HUB}/openai/clip-vit-large-patch14",
        needed_by="extract: reference by clip",
        revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
        files=hub_files(
            "openai/clip-vit-large-patch14",
            "32bd64288804d66eefd0ccbe215aa642df71cc41",
            ("model.safetensors", "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb", 1_710_540_580),
            ("preprocessor_config.json", "", 0),
            ("config.json", "8a09b467700c58138c29d53c605b34ebc69beaadd13274a8a2af8ad2c2f4032a", 4_519),
        ),
    ),
    Weights(
        name="umt5",
        setting="the encoder's weights",
        pattern="",
        folder="umt5-xxl",
        origin=f"UMT5-XXL, the encoder alone with its tokenizer, as Wan 2.1 uses it ({WAN})",
        licence="Apache-2.0",
        url=f"{HUB}/{WAN}",
        needed_by="extract: text of captions",
        revision=WAN_COMMIT,
        files=hub_files(
            WAN,
            WAN_COMMIT,
            *(
                (f"text_encoder/model-0000{index}-of-00005.safetensors", sha256, num_bytes)
                for index, (sha256, num_bytes) in enumerate(
                    (
                        ("c0ef3a140898e228a3520c9adec60743d2e8e5b3d229651bb37f1a3921919f99", 4_972_389_712),
                        ("481c7b2b39771c44df6dd8d13ee12ed072d731b4a650bd092885d4d52db229ad", 4_899_225_672),
                        ("f93148bcc04052a169e1e49bfcf6125df6cf9bf243cb9c627da75266cf8e35c3", 4_966_309_504),
                        ("a451792c739c05bca4606190cc2dd16731411bac03b4cf6aacc5767321f857c9", 4_999_880_704),
                        ("7e76e18d224531b8197a46231cb53daf7f2f6ca707130252becf933026ac4eea", 2_885_866_152),
                    ),
                    start=1,
                )
            ),
            ("text_encoder/model.safetensors.index.json", "", 22_476),
            ("tokenizer/spiece.model", "e3909a67b780650b35cf529ac782ad2b6b26e6d1f849d3fbb6a872905f452458", 4_548_313),
            (
                "tokenizer/tokenizer.json",
                "20a46ac256746594ed7e1e3ef733b83fbc5a6f0922aa7480eda961743de080ef",
                16_837_459,
            ),
            (
                "tokenizer/tokenizer_config.json",
                "1d8d2a216bf8e70ac15b7ddcea566c4dd0433c024b39a58ca5e4c66bd78defbd",
                61_758,
            ),
            (
                "tokenizer/special_tokens_map.json",
                "456b58fd240a06c743a7c2cf8008bec501240d68ebd1fc4018ea569505fea270",
                7_079,
            ),
            ("text_encoder/config.json", "4087b6192155a4643f6d29fd326c4610103130674011ef4d0a53f8bce5de967d", 854),
        ),
    ),
    Weights(
        name="wan_vae",
        setting="the encoder's weights",
        pattern="",
        folder="wan2.1-vae",
        origin=f"the video autoencoder of Wan 2.1 ({WAN}, its folder vae)",
        licence="Apache-2.0",
        url=f"{HUB}/{WAN}",
        needed_by="extract: video by wan_vae; generate",
        revision=WAN_COMMIT,
        files=hub_files(
            WAN,
            WAN_COMMIT,
            (
                "vae/diffusion_pytorch_model.safetensors",
                "d6e524b3fffede1787a74e81b30976dce5400c4439ba64222168e607ed19e793",
                507_591_892,
            ),
            ("vae/config.json", "f0c1cc1d7decb5badc384f54691746a27a9aeff49f7ebca974e583389342d527", 724),
        ),
    ),
    Weights(
        name="mova",
        setting="--checkpoint",
        pattern="",
        folder="MOVA-360p",
        origin="MOVA-360p (OpenMOSS-Team/MOVA-360p)",
        licence="Apache-2.0",
        url=f"{HUB}/OpenMOSS-Team/MOVA-360p",
        needed_by="verify mova",
        hub="OpenMOSS-Team/MOVA-360p",
    ),
)
