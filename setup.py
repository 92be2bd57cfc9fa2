"""Installs the packages `bcaudio` and `data_prep` and the command `bcaudio`."""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "deepspeed>=0.19",
    "jiwer>=4.0",
    "lightning>=2.6",
    "matplotlib>=3.10",
    "numpy>=2.0",
    "omegaconf>=2.4",
    "psutil>=6",
    "pyyaml>=6.0",
    "rich>=14",
    "sacrebleu>=2.6",
    "safetensors>=0.6",
    "soundfile>=0.13",
    "soxr>=1.0",
    "tensorboard>=2.20",
    "tokenizers>=0.22",
    "torch>=2.13",
    "torchmetrics>=1.8",
    "transformers>=5.23",
    "webdataset>=1.0",
]
AV = ["av>=16"]
SYNTHESIS = ["espeakng-loader>=0.2.4"]  # bundles espeak-ng (GPLv3): only makes sound, hence never in the core
ASR = ["pocketsphinx>=5.1"]
BENCH = ["vector-quantize-pytorch>=1.32"]  # a peer that benchmarks/ compares with
RAY = ["ray>=2.50"]  # data preparation on a cluster
LAUNCH_RAY = ["ray[train]>=2.50"]  # `bcaudio launch --backend ray`
LORA = ["peft>=0.18"]
PARQUET = ["pyarrow>=20"]  # recordings in Hugging Face datasets
REMOTE = ["fsspec>=2025.3", "s3fs>=2025.3"]  # recordings and manifests behind URLs
VAD = ["silero-vad>=6", "webrtcvad-wheels>=2.0.14"]
NORMALIZE = ["wetext>=0.1.8"]
MOS = ["onnxruntime>=1.22", "speechmos>=0.0.1"]
SPEAKER = ["resemblyzer>=0.1.4", "setuptools<81"]  # its webrtcvad imports pkg_resources
PIPER = ["piper-tts>=1.3"]  # GPLv3: only makes sound
TEST = ["hypothesis>=6.100", "pytest>=9", "pytest-xdist>=3.8", "ruff>=0.17"]

setup(
    name="bcaudio",
    version="0.1.0",
    description="Training, data preparation and evaluation for Baichuan-Audio: one model that hears and speaks",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["bcaudio", "bcaudio.*", "data_prep", "data_prep.*"]),
    package_data={"bcaudio.evaluation": ["templates/*.html", "templates/*.css", "prompts/*.txt"]},
    install_requires=CORE,
    extras_require={
        "av": AV,
        "synthesis": SYNTHESIS,
        "asr": ASR,
        "micro": SYNTHESIS + AV + ASR,
        "bench": BENCH,
        "ray": RAY,
        "ray-train": LAUNCH_RAY,
        "lora": LORA,
        "parquet": PARQUET,
        "remote": REMOTE,
        "vad": VAD,
        "normalize": NORMALIZE,
        "mos": MOS,
        "speaker": SPEAKER,
        "piper": PIPER,
        "test": TEST,
    },
    entry_points={"console_scripts": ["bcaudio = bcaudio.cli:main"]},
)
