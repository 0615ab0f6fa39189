"""Install with ``pip install -e .``; the extras are listed below, each with its licence."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "torchreid_xres" / "version.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

# Folders of the checkout that lie elsewhere where the package is installed.
FOLDERS = {
    "torchreid_xres.configs": "configs",
    "torchreid_xres_benchmarks": "benchmarks",
    "torchreid_xres_tools": "tools",
}
# What torchreid 0.2.5 imports without declaring it, so that we have to. six and imageio are its alone.
TORCHREID_IMPORTS = [
    "scipy",
    "opencv-python-headless>=4.5",
    "gdown>=4.7",
    "tensorboard",
    "six",
    "h5py",
    "imageio",
]

setup(
    name="torchreid_xres",
    version=VERSION,
    description="Cross-resolution re-identification for torchreid",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=[*find_packages(include=["torchreid_xres", "torchreid_xres.*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={
        "torchreid_xres": ["py.typed"],
        "torchreid_xres.report": ["*.html"],
        "torchreid_xres.data": ["shipped/*.pth"],
        "torchreid_xres.configs": ["*.yaml", "_base_/*.yaml"],
        "torchreid_xres_benchmarks": ["*.yaml"],
    },
    entry_points={"console_scripts": ["xres = torchreid_xres_tools.xres:main"]},
    python_requires=">=3.10",
    install_requires=[
        # torchvision pins the one torch it was built for, so the pair always fits.
        "torch>=2.4,<2.16",
        "torchvision>=0.19",
        "torchreid>=0.2.5",
        "timm>=1.0.9",
        "numpy>=1.24",
        "Pillow>=9.1",
        "safetensors>=0.4",
        "yacs>=0.1.8",
        "PyYAML",
        "tabulate>=0.9",
        "tqdm>=4.60",
        "Jinja2>=3.0",
        *TORCHREID_IMPORTS,
    ],
    extras_require={
        "test": [
            "pytest>=7.4",
            "pytest-xdist>=3.5",
            "ruff>=0.5",
            "hypothesis>=6.80",
            "import-linter>=2.0",  # BSD-2-Clause
            "build>=1.0",  # MIT
            "twine>=5.0",  # Apache-2.0
        ],
        "sr": ["spandrel>=0.4"],
        "search": ["faiss-cpu>=1.8"],
        "milvus": ["pymilvus>=3.0", "milvus-lite>=3.2"],  # Apache-2.0, both
        "video": ["av>=12.0"],  # PyAV, BSD-3-Clause
        "cpu": ["openvino>=2025.0"],  # Apache-2.0
        "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.1"],
        "completion": ["shtab>=1.6"],  # MPL-2.0
        "report": ["matplotlib>=3.8", "scikit-learn>=1.3"],
        "ui": ["gradio>=6"],  # Apache-2.0
        "docs": [
            "sphinx>=8.2",  # BSD-2-Clause; wants Python 3.11
            "myst-parser>=4.0",  # MIT
            "furo>=2024.8.6",  # MIT
        ],
    },
)
