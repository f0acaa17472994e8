"""Every published model that the product can use: where it is published, under what licence, what its bytes are.

A digest stands here where at least two public projects report it for the same file, or
where the file itself was at hand (yunet, mediapipe, silero). Files without one are pinned by whoever pulls them first.
"""

from dataclasses import replace

from dualforce_model.pretrained.hub import FOLDERS, HUB, hub_files
from dualforce_model.pretrained.record import Archive, PublishedFile, Weights

GITHUB = "https://github.com"
BUFFALO_L = f"{GITHUB}/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip"
BUFFALO_L_ZIP = Archive("80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f", 288_621_354)
MAX_PLANCK = "Max Planck Institute's: non-commercial research only, no modification, no redistribution"
FROM_FLAME = "the project is MIT; the file has no licence of its own, and was trained with FLAME, which has one"


def _alone(name: str, url: str, sha256: str = "", num_bytes: int = 0) -> tuple[PublishedFile]:
    """A model that is one file."""
    return (PublishedFile(name, url, sha256, num_bytes),)


def _in_pack(name: str, sha256: str, num_bytes: int) -> tuple[PublishedFile]:
    """A file of InsightFace's pack."""
    return (PublishedFile(name, BUFFALO_L, sha256, num_bytes, BUFFALO_L_ZIP),)


DETECTION = (
    Weights(
        name="yunet",
        setting="detector.weights",
        pattern="face_detection_yunet_2023mar.onnx",
        folder="",
        origin="YuNet, release 2023mar of the OpenCV Zoo (github.com/opencv/opencv_zoo)",
        licence="MIT in the OpenCV Zoo, Apache-2.0 where it was trained (ShiqiYu/libfacedetection.train)",
        url=f"{GITHUB}/opencv/opencv_zoo/raw/main/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
        needed_by="curate: detector yunet",
        files=_alone(
            "face_detection_yunet_2023mar.onnx",
            f"{GITHUB}/opencv/opencv_zoo/raw/main/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
            "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
            232_589,
        ),
    ),
    Weights(
        name="scrfd",
        setting="detector.weights",
        pattern="det_*.onnx",
        folder="buffalo_l",
        origin="InsightFace (github.com/deepinsight/insightface), model pack buffalo_l",
        licence="non-commercial research only",
        url=BUFFALO_L,
        needed_by="curate: detector scrfd",
        revision="v0.7",
        restricted=True,
        files=_in_pack("det_10g.onnx", "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91", 16_923_827),
    ),
    Weights(
        name="identity",
        setting="curate.measures.identity.weights",
        pattern="w600k_*.onnx",
        folder="buffalo_l",
        origin="InsightFace (github.com/deepinsight/insightface), model pack buffalo_l, or any other net in its form",
        licence="InsightFace's: non-commercial research only; another's: as its makers say",
        url=BUFFALO_L,
        needed_by="curate: measure identity",
        revision="v0.7",
        restricted=True,
        files=_in_pack(
            "w600k_r50.onnx", "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43", 174_383_860
        ),
    ),
    Weights(
        name="insightface_landmarks",
        setting="the weights of InsightFace's landmarks",
        pattern="2d106det.onnx",
        folder="buffalo_l",
        origin="InsightFace (github.com/deepinsight/insightface), model pack buffalo_l",
        licence="non-commercial research only",
        url=BUFFALO_L,
        needed_by="extract: crops for liveportrait by 106 landmarks",
        revision="v0.7",
        restricted=True,
        files=_in_pack("2d106det.onnx", "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf", 5_030_888),
    ),
    Weights(
        name="mediapipe",
        setting="detector.weights",
        pattern="face_landmarker.task",
        folder="",
        origin="MediaPipe Face Landmarker, float16, version 1 (ai.google.dev/edge/mediapipe)",
        licence="Apache-2.0",
        url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
        needed_by="curate: detector mediapipe, measure mesh; extract: blend shapes and pose",
        revision="float16/1",
        files=_alone(
            "face_landmarker.task",
            "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
            "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            3_758_596,
        ),
    ),
    Weights(
        name="silero",
        setting="curate.measures.silero.weights",
        pattern="silero_vad.onnx",
        folder="silero",
        origin="Silero VAD (github.com/snakers4/silero-vad)",
        licence="MIT",
        url=f"{GITHUB}/snakers4/silero-vad",
        needed_by="curate: measure silero",
        revision="806dcba3f0b5d95282d0889a074954a2f8c6397b",
        files=_alone(
            "silero_vad.onnx",
            f"{GITHUB}/snakers4/silero-vad/raw/806dcba3f0b5d95282d0889a074954a2f8c6397b"
            "/src/silero_vad/data/silero_vad.onnx",
            "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            2_327_524,
        ),
    ),
    Weights(
        name="syncnet",
        setting="curate.measures.syncnet.weights",
        pattern="syncnet_v2.model",
        folder="",
        origin="SyncNet v2 (github.com/joonson/syncnet_python), or a safetensors file of the same names",
        licence="the project's code is MIT; the file has no licence of its own and was published for research",
        url="https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        needed_by="curate: measure syncnet; evaluate: lip sync",
        files=_alone(
            "syncnet_v2.model",
            "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
            "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
            54_573_114,
        ),
    ),
)

MOTION = (
    Weights(
        name="liveportrait",
        setting="the encoder's weights",
        pattern="motion_extractor.pth",
        also=("motion_extractor.safetensors",),
        folder="liveportrait",
        origin="LivePortrait (github.com/KwaiVGI/LivePortrait), its motion extractor for humans",
        licence="MIT",
        url=f"{HUB}/KwaiVGI/LivePortrait",
        needed_by="extract: structure by liveportrait",
        files=hub_files(
            "KwaiVGI/LivePortrait",
            "main",
            (
                "liveportrait/base_models/motion_extractor.pth",
                "251e6a94ad667a1d0c69526d292677165110ef7f0cf0f6d199f0e414e8aa0ca5",
                112_545_506,
            ),
        ),
    ),
    Weights(
        name="liveportrait_landmarks",
        setting="the weights of LivePortrait's landmarks",
        pattern="landmark.onnx",
        folder="liveportrait",
        origin="LivePortrait (github.com/KwaiVGI/LivePortrait), its net of 203 landmarks",
        licence="MIT",
        url=f"{HUB}/KwaiVGI/LivePortrait",
        needed_by="extract: crops for liveportrait",
        files=hub_files(
            "KwaiVGI/LivePortrait",
            "main",
            (
                "liveportrait/landmark.onnx",
                "31d22a5041326c31f19b78886939a634a5aedcaa5ab8b9b951a1167595d147db",
                114_666_491,
            ),
        ),
    ),
    Weights(
        name="smirk",
        setting="the encoder's weights",
        pattern="SMIRK_em1.pt",
        also=("SMIRK_em1.safetensors",),
        folder="smirk",
        origin="SMIRK (github.com/georgeretsi/smirk)",
        licence=FROM_FLAME,
        url="https://drive.google.com/file/d/1T65uEd9dVLHgVw5KiUYL66NUee-MCzoE/view",
        needed_by="extract: flame by smirk",
        by_hand="open the link in a browser (Google Drive asks before it serves a file of this size) and save "
        "SMIRK_em1.pt, or: pip install gdown && gdown 1T65uEd9dVLHgVw5KiUYL66NUee-MCzoE",
    ),
    Weights(
        name="deca",
        setting="the encoder's weights",
        pattern="deca_model.tar",
        also=("deca_model.safetensors",),
        folder="deca",
        origin="DECA (github.com/yfeng95/DECA)",
        licence=MAX_PLANCK,
        url="https://drive.google.com/file/d/1rp8kdyLPvErw2dTmqtjISRVvQLj6Yzje/view",
        needed_by="extract: flame by deca (an option)",
        restricted=True,
        by_hand="register at https://flame.is.tue.mpg.de, accept the licences of FLAME and DECA, then open the link in "
        "a browser and save deca_model.tar",
    ),
    Weights(
        name="emoca",
        setting="the encoder's weights",
        pattern="*.ckpt",
        also=("*.safetensors",),
        folder="emoca",
        origin="EMOCA (github.com/radekd91/emoca)",
        licence=MAX_PLANCK,
        url="https://emoca.is.tue.mpg.de",
        needed_by="extract: flame by emoca (an option)",
        restricted=True,
        by_hand="register there, accept the licence, download the model (EMOCA_v2_lr_mse_20, say) and take the .ckpt "
        "out of its folder detail/checkpoints",
    ),
)

METRICS = (
    Weights(
        name="i3d",
        setting="the metric's weights",
        pattern="i3d_pretrained_400.pt",
        folder="",
        origin="I3D of Kinetics-400 as VideoGPT and TATS use it, names of piergiaj/pytorch-i3d",
        licence="the net's code is Apache-2.0; the file has no licence of its own",
        url=f"{HUB}/spaces/LanguageBind/Open-Sora-Plan-v1.0.0",
        needed_by="evaluate: Frechet Video Distance",
        revision="810fa8c4bdb3a4c8eec9bd57375c29bde6fb46de",
        files=hub_files(
            "spaces/LanguageBind/Open-Sora-Plan-v1.0.0",
            "810fa8c4bdb3a4c8eec9bd57375c29bde6fb46de",
            ("opensora/eval/fvd/videogpt/i3d_pretrained_400.pt", "", 0),
        ),
    ),
    Weights(
        name="i3d_torchscript",
        setting="the metric's weights",
        pattern="i3d_torchscript.pt",
        folder="",
        origin="I3D of Kinetics-400 as StyleGAN-V publishes it",
        licence="none is stated for the file",
        url=f"{HUB}/flateon/FVD-I3D-torchscript",
        needed_by="evaluate: Frechet Video Distance, on the scale of most papers",
        revision="1c2d61711c52571ad617a1063e6fa691b212e184",
        files=hub_files(
            "flateon/FVD-I3D-torchscript",
            "1c2d61711c52571ad617a1063e6fa691b212e184",
            ("i3d_torchscript.pt", "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2", 51_235_320),
        ),
    ),
    Weights(
        name="inception",
        setting="the metric's weights",
        pattern="pt_inception-2015-12-05-6726825d.pth",
        folder="",
        origin="Inception-v3 of FID as pytorch-fid publishes it (github.com/mseitzer/pytorch-fid)",
        licence="Apache-2.0",
        url=f"{GITHUB}/mseitzer/pytorch-fid/releases/tag/fid_weights",
        needed_by="evaluate: Frechet Inception Distance",
        revision="fid_weights",
        files=_alone(
            "pt_inception-2015-12-05-6726825d.pth",
            f"{GITHUB}/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            95_628_359,
        ),
    ),
)

PRETRAINED: dict[str, Weights] = {
    each.name: replace(each, model=each.name) for each in (*DETECTION, *MOTION, *METRICS, *FOLDERS)
}
