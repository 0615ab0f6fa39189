"""What the flags of the programs may be: the package's own names, as a help text needs them before torch is loaded."""

AGAINST = ("rate", "magnification")
BACKENDS = ("auto", "torch", "onnxruntime", "openvino")
BOUNDS = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.98}
DATA_ROOT = "reid-data"
DEFAULT_WEIGHTS = "osnet_x0_25_msmt17"
FIGURES = (".png", ".svg", ".pdf")
GROUPS = ("identity", "track", "camera")
FORMATS = ("png", "jpg")
INDEXES = ("FLAT", "HNSW", "DISKANN")
INPUTS = ("uint8", "float32")
KINDS = ("models", "front-ends", "data-sets", "losses", "configs", "mends")
LEAST_OPSET = 18
METRICS = ("euclidean", "cosine")
MOST_QUERIES = 10
OBJECTIVES = ("mAP", "rank1")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
PRECISIONS = ("auto", "fp32", "bf16", "bf16_unchecked", "fp16")
QUERIES = ("all", "drawn")
ROLES = ("query", "gallery")
TABLES = (".html", ".csv", ".json")
WHICH_QUERIES = ("worst", "best", "random")
