"""Every configuration key, its default and its unit: the host's public ones, plus one function that adds ours.

The keys that torchreid's own scripts use keep their names and meaning (KaiyangZhou/deep-person-reid,
``scripts/default_config.py``); :func:`add_xres_config` adds everything else.
"""

from __future__ import annotations

import math

import torch
from yacs.config import CfgNode

_HOST_SAMPLERS = (
    "RandomSampler", "SequentialSampler", "RandomIdentitySampler", "RandomDomainSampler", "RandomDatasetSampler",
)  # fmt: skip
_OPTIMIZERS = ("adam", "amsgrad", "sgd", "rmsprop", "radam")

CHOICES = {
    "data.type": ("image",),
    "data.part": ("test", "validation"),
    "data.kernel": ("area", "bilinear", "bicubic", "lanczos", "bilinear_plain"),
    "data.interpolation": ("bilinear", "bicubic"),
    "data.padding": ("", "reflect", "official"),
    "sampler.train_sampler": (*_HOST_SAMPLERS, "IdentitySampler", "MixedIdentitySampler"),
    "sampler.train_sampler_t": _HOST_SAMPLERS,
    "loss.name": ("softmax", "triplet"),
    "loss.sr.name": ("l1", "mse", "mse_imagenet"),
    "loss.sr.views": ("low", "all"),
    "loss.sr.coupling": ("joint", "detached"),
    "loss.heatmap.name": ("l1", "mse"),
    "loss.msifla.coupling": ("alternate", "joint", "detached"),
    "loss.asymmetric.gallery": ("frozen", "trained", "shared"),
    "loss.asymmetric.classifier": ("trained", "frozen"),
    "train.optim": _OPTIMIZERS,
    "train.sr_optimizer": ("", *_OPTIMIZERS),
    "train.lr_scheduler": ("single_step", "multi_step", "cosine"),
    "train.precision": ("auto", "fp32", "bf16", "bf16_unchecked", "fp16"),
    "train.warmup_shape": ("linear", "constant"),
    "test.dist_metric": ("euclidean", "cosine"),
    "test.metric": ("", "market", "single_shot"),
    "vpfa.target": ("sample", "prototype"),
}
# Of lists, what each entry may be.
CHOICES_OF_LISTS = {
    "loss.ps.terms": ("seq1", "seq2", "seq3", "seq4", "seq5", "logits"),
    "fusion.search": ("all", "size"),
    "data.camera.kernels": ("area", "bilinear", "bicubic", "lanczos", "bilinear_plain"),
}
# Of numbers, and of the numbers in lists: the least and the largest. None is infinite or NaN.
ABOVE_0, BELOW_1 = math.ulp(0.0), math.nextafter(1.0, 0.0)
LIMITS: dict[str, tuple[float, float]] = {
    "data.grey_bits": (8, 16),
    **dict.fromkeys(
        (
            "data.height", "data.width", "data.k_tfm", "data.num_splits", "data.rates", "data.pair_rates",
            "data.random_rates", "sampler.num_instances", "sampler.num_cams", "sampler.num_datasets", "video.seq_len",
            "sr.scale", "loss.msifla.rates", "train.batch_size", "train.epoch_batches", "train.stepsize",
            "train.print_freq", "test.batch_size", "test.ranks", "test.visrank_topk", "test.draws", "test.query_rates",
            "data.camera.rates", "loss.asymmetric.bank", "vpfa.rates", "vpfa.hidden", "vpfa.epochs",
            "vpfa.batch_size", "vpfa.stepsize",
        ),
        (1, math.inf),
    ),
    **dict.fromkeys(
        (
            "data.workers", "data.split_id", "data.pad", "data.cache_mb", "sampler.num_low",
            "train.lr", "train.weight_decay", "train.max_epoch", "train.patience", "train.start_epoch",
            "train.fixbase_epoch", "train.base_lr_mult", "train.gamma", "train.warmup_epochs", "train.clip_grad",
            "sgd.momentum", "sgd.dampening", "loss.triplet.margin", "loss.triplet.weight_t", "loss.triplet.weight_x",
            "loss.msifla.cascade_epochs", "loss.sr.weight", "loss.sr.plain", "loss.sr.feature", "train.sr_lr",
            "loss.distill.weight", "loss.ps.weight",
            "loss.asymmetric.absolute", "loss.asymmetric.relational", "loss.asymmetric.id", "loss.asymmetric.triplet",
            "loss.dgrl.l1", "loss.dgrl.id", "loss.dgrl.wrt", "loss.dgrl.kl", "loss.dgrl.side",
            "test.start_eval", "test.seed", "fusion.weights", "vpfa.lr", "vpfa.weight_decay", "vpfa.gamma",
        ),
        (0, math.inf),
    ),
    "data.norm_mean": (-math.inf, math.inf),
    "data.norm_std": (ABOVE_0, math.inf),
    "data.protocol_seed": (-math.inf, math.inf),  # hashed
    "train.seed": (0, 2**32 - 1),  # numpy's
    "train.seed_offset": (0, 2**31),
    "data.validation": (0, 0.5),
    **dict.fromkeys(
        ("data.random_share", "data.camera.share", "data.camera.blur", "data.camera.noise", "data.camera.jpeg"), (0, 1)
    ),
    "loss.asymmetric.temperature": (ABOVE_0, math.inf),
    "loss.asymmetric.momentum": (0, BELOW_1),
    "loss.asymmetric.held_out": (0, BELOW_1),
    "loss.asymmetric.caution": (0, 1),
    "train.warmup_factor": (ABOVE_0, 1),
    "test.eval_freq": (-1, math.inf),
    "rmsprop.alpha": (0, 1),
    "adam.beta1": (0, BELOW_1),
    "adam.beta2": (0, BELOW_1),
}  # fmt: skip
# Lists of whole numbers, and those that cannot be empty.
WHOLE = ("train.stepsize", "test.ranks")


def host_config() -> CfgNode:
    """Return the defaults of the keys that torchreid's scripts have."""
    return CfgNode(
        {
            "model": {
                "name": "resnet50",
                "pretrained": True,  # start from weights on the internet where the model offers them
                "load_weights": "",  # file of weights to start from
                "resume": "",  # state of another run of the same optimiser and schedule to go on from; empty: its own
            },
            "data": {
                "type": "image",
                "root": "reid-data",  # folder that holds the data sets
                "sources": ["market1501"],  # training sets
                "targets": ["market1501"],  # test sets
                "workers": 4,  # loader processes
                "split_id": 0,  # which split of a multi-split set, 0-based
                "height": 256,  # pixels, network input
                "width": 128,  # pixels, network input
                "combineall": False,  # train on train + query + gallery
                "transforms": ["random_flip"],
                "k_tfm": 1,  # augmentations of one image per draw
                "norm_mean": [0.485, 0.456, 0.406],
                "norm_std": [0.229, 0.224, 0.225],
                "save_dir": "log",
                "load_train_targets": False,
            },
            "market1501": {"use_500k_distractors": False},
            "cuhk03": {"labeled_images": False, "classic_split": False, "use_metric_cuhk03": False},
            "sampler": {
                "train_sampler": "RandomSampler",
                "train_sampler_t": "RandomSampler",
                "num_instances": 4,  # images per identity in a batch
                "num_cams": 1,
                "num_datasets": 1,
            },
            "video": {"seq_len": 15, "sample_method": "evenly", "pooling_method": "avg"},
            "train": {
                "optim": "adam",
                "lr": 0.0003,
                "weight_decay": 5e-4,
                "max_epoch": 60,
                "start_epoch": 0,
                "batch_size": 32,  # images
                "fixbase_epoch": 0,  # first epochs in which only open_layers learn
                "open_layers": ["classifier"],
                "staged_lr": False,
                "new_layers": ["classifier"],
                "base_lr_mult": 0.1,
                "lr_scheduler": "single_step",
                "stepsize": [20],  # epochs
                "gamma": 0.1,
                "print_freq": 20,  # batches between log lines
                "seed": 1,
            },
            "sgd": {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
            "rmsprop": {"alpha": 0.99},
            "adam": {"beta1": 0.9, "beta2": 0.999},
            "loss": {
                "name": "softmax",
                "softmax": {"label_smooth": True},
                "triplet": {"margin": 0.3, "weight_t": 1.0, "weight_x": 0.0},
            },
            "test": {
                "batch_size": 100,
                "dist_metric": "euclidean",
                "normalize_feature": False,
                "ranks": [1, 5, 10, 20],
                "evaluate": False,  # only evaluate, no training
                "eval_freq": -1,  # epochs between evaluations; -1: only after the last
                "start_eval": 0,
                "rerank": False,
                "visrank": False,
                "visrank_topk": 10,
            },
            "use_gpu": torch.cuda.is_available(),
        }
    )


def add_xres_config(cfg: CfgNode) -> CfgNode:
    """Add this package's keys to a host configuration, in place, and return it."""
    free = {"new_allowed": True}  # nodes whose keys belong to the thing they configure

    # Data. Empty means: as the data set says.
    cfg.data.rates = []  # down-sampling rates of the protocol; 4.0 = a quarter of the side
    cfg.data.kernel = "area"  # down-sampling kernel: area, bilinear, bicubic, lanczos, bilinear_plain
    cfg.data.protocol_seed = 0  # which rate each file gets; splits are drawn by data.split_id
    cfg.data.interpolation = "bilinear"  # how images come to the network's size: bilinear, bicubic
    cfg.data.grey_bits = 16  # that grey pixels in files of 16 bits really have: thermal cameras give 10, 12 or 14
    cfg.data.pad = 10  # pixels of border from which the transform "pad_crop" cuts a piece of the input's size
    # That border: reflect, the picture mirrored; official, black. Empty: reflect for pairs, whose low views are made of
    # the bordered picture, and else official. In force is padding_of(cfg) of config.py.
    cfg.data.padding = ""
    cfg.data.pictures = ""  # folder of pictures to read in place of the sets' own, one PNG for each manifest name
    cfg.data.cache_mb = 2048  # a training set that takes no more than so many MiB at the network's size stays in memory
    cfg.data.num_splits = 1  # splits to run, from split_id on; mean and deviation are reported
    cfg.data.validation = 0.0  # share of the training identities kept out of the training, to choose things on
    cfg.data.part = "test"  # what targets are evaluated on: test, or validation, those identities' images
    cfg.data.pairs = False  # training items carry the HR and LR view of one image
    cfg.data.pair_rates = []  # rates of LR views of HR images, drawn anew each time
    cfg.data.originals = False  # training images are as captured, also those that the protocol makes low; without pairs
    cfg.data.random_rates = []  # least and largest rate at which training images are seen, log-uniform; without pairs
    cfg.data.random_share = 0.85  # of these images at such a rate, drawn each time; the others stay sharp
    cfg.data.camera = CfgNode()  # what asymmetric learns from: views as cameras of lower resolution would have
    cfg.data.camera.rates = [1.0, 8.0]  # least and largest rate, log-uniform; the largest leaves 8 pixels of height
    cfg.data.camera.share = 0.85  # of the images at such a rate; the others stay sharp
    cfg.data.camera.kernels = ["area", "bilinear", "bicubic"]  # of the down-sampling, as likely as each other
    cfg.data.camera.blur = 0.2  # share of the low views that are blurred a little
    cfg.data.camera.noise = 0.2  # share with noise of the sensor
    cfg.data.camera.jpeg = 0.2  # share that went through JPEG at their small size
    cfg.data.options = CfgNode(**free)  # options of single data sets: {mlr_market1501: {lr_camera: 1}}

    cfg.sampler.num_low = 2  # low-resolution images among num_instances (MixedIdentitySampler)

    cfg.model.reid = "osnet_x0_25"  # model of the host's zoo behind the front end
    cfg.model.reid_weights = ""  # file of weights the re-ID network starts from
    cfg.model.gallery_run = ""  # asymmetric: folder of a run whose network, weights and input the gallery encoder takes
    cfg.model.options = CfgNode(**free)  # further options of the registered model

    cfg.sr = CfgNode()
    cfg.sr.name = "bicubic"  # front end; tools list them with an unknown name
    cfg.sr.scale = 2  # integer factor of the front end's own grid
    cfg.sr.weights = ""  # file of published or own weights of the front end
    cfg.sr.options = CfgNode(**free)  # sizes of the front end: {depth: 20, width: 64}
    cfg.sr.frozen = False  # keep the front end as loaded

    cfg.loss.sr = CfgNode()
    cfg.loss.sr.name = "l1"  # reconstruction loss: l1, mse
    cfg.loss.sr.weight = 1.0
    # Views that it counts: low; all: also images that are their own pair, whose answer is what came in.
    cfg.loss.sr.views = "low"
    cfg.loss.sr.coupling = "joint"  # psh_rnet, sr_reid: detached: all other losses spare the front end
    cfg.loss.sr.feature = 0.0  # sr_reid: 1 - cosine of the re-ID network's features, as it starts, in place of pixels
    cfg.loss.sr.plain = 0.0  # sr_reid: identity loss of low views that no front end has restored, SING's third term

    cfg.loss.heatmap = CfgNode()
    cfg.loss.heatmap.name = "l1"  # of keypoint heat maps: l1, mse

    cfg.loss.distill = CfgNode()  # KGNet's student follows its teacher
    cfg.loss.distill.weight = 10.0  # lambda_d

    cfg.loss.ps = CfgNode()  # PS-HRNet's pseudo-siamese loss
    cfg.loss.ps.teacher = ""  # file of the teacher's weights
    cfg.loss.ps.weight = 0.5
    cfg.loss.ps.terms = ["seq1", "seq4", "seq5", "logits"]  # outputs that follow the teacher's

    cfg.loss.msifla = CfgNode()  # MSIFLA's two losses
    cfg.loss.msifla.coupling = "alternate"  # a step on each; joint: one on both; detached: L_ReID spares the cascade
    cfg.loss.msifla.rates = [4.0, 3.0, 2.0]  # versions of a high-resolution image that the cascade learns from
    cfg.loss.msifla.cascade_epochs = 0  # first epochs, of the cascade alone
    cfg.loss.msifla.unit = False  # stripes of length 1 in the triplet loss: for networks that start from random weights

    cfg.loss.dgrl = CfgNode()  # DGRL's losses; one of weight 0 is not computed
    cfg.loss.dgrl.l1 = 5.0  # smooth L1 between the stems' features (gamma)
    cfg.loss.dgrl.id = 1.0  # identity loss
    cfg.loss.dgrl.wrt = 1.0  # weighted regularised triplet loss
    cfg.loss.dgrl.kl = 1.0  # mutual loss of the branches
    cfg.loss.dgrl.side = 0.5  # what a side branch counts in the identity and triplet losses (alpha, beta)
    cfg.loss.dgrl.restored = ""  # folder of the task restore_pairs; empty: low views are restored in each step

    cfg.loss.asymmetric = CfgNode()  # asymmetric's losses; one of weight 0 is not computed
    cfg.loss.asymmetric.gallery = "frozen"  # gallery encoder: frozen; trained: it learns, too; shared: one for both
    cfg.loss.asymmetric.absolute = 1.0  # 1 - cosine to the sharp image's feature
    cfg.loss.asymmetric.relational = 1.0  # similarities to a bank of sharp images' features
    cfg.loss.asymmetric.temperature = 0.07  # of these similarities
    cfg.loss.asymmetric.bank = 1024  # features
    cfg.loss.asymmetric.id = 0.0  # cross-entropy, with labels
    cfg.loss.asymmetric.classifier = "trained"  # its classifier: trained, from the gallery encoder's on; frozen
    cfg.loss.asymmetric.triplet = 0.0  # batch-hard triplets across views, with labels
    cfg.loss.asymmetric.momentum = 0.0  # of a mean gallery encoder that is followed instead; 0: of the encoder itself
    cfg.loss.asymmetric.held_out = 0.1  # share of the training images kept for finding the threshold, at most 128
    cfg.loss.asymmetric.caution = 1.0  # share of what a query encoder says otherwise of sharp images that counts there

    # Several runs in a row, each once: {name: changes to the whole configuration}, in this order. "{name}" in a text
    # value of a later one is that stage's folder.
    cfg.stages = CfgNode(**free)
    cfg.task = "train"  # what a stage does: train (and evaluate), or another name of engine.run.TASKS

    cfg.train.sr_optimizer = ""  # of the front end of psh_rnet or sr_reid, without decay or warm-up; "": train.optim
    cfg.train.sr_lr = 3e-4  # of that optimiser
    cfg.train.epoch_batches = 250  # batches of an epoch where the paper counts iterations (prpr_restorer)
    # Evaluations of the validation part (every test.eval_freq epochs) without gain after which the training ends; the
    # best epoch is then evaluated on the test. 0: train to max_epoch. A cosine schedule stays max_epoch long.
    cfg.train.patience = 0
    cfg.train.liveness = False  # tell after the first epoch which parts of the network learn; the training is the same
    cfg.train.seed_offset = 0  # added to seed: networks that are put together each begin from numbers of their own
    cfg.train.warmup_epochs = 0  # first epochs at a lower learning rate
    cfg.train.warmup_factor = 0.1  # what they begin with, as a part of train.lr
    cfg.train.warmup_shape = "linear"  # linear: up to train.lr in steps; constant: all at warmup_factor
    # auto: bf16 where that is faster and, on a CPU, proved right on the first batch; fp32; bf16: stops where that is
    # wrong; bf16_unchecked; fp16: GPU, with loss scaling
    cfg.train.precision = "auto"
    cfg.train.channels_last = True  # memory layout of convolutions; same numbers up to rounding, faster
    cfg.train.compile = False  # torch.compile, in training and evaluation: minutes at the start, faster afterwards
    cfg.train.clip_grad = 0.0  # largest norm of the whole gradient; 0: no clipping

    cfg.test.metric = ""  # market, single_shot; empty: as the data set says
    cfg.test.draws = 10  # gallery draws of a single-shot evaluation
    cfg.test.seed = 0  # of these draws
    cfg.test.flip = False  # add the features of the mirrored image
    cfg.test.query_rates = []  # evaluate again with every low query at each of these rates
    cfg.test.expected = CfgNode(**free)  # least figures to reach, in per cent: {mlr_cuhk03: {rank1: 60.0}}

    cfg.fusion = CfgNode()  # what the task "fuse" does with the branches of a model
    cfg.fusion.branches = []  # folders of their runs, the original images' first
    cfg.fusion.weights = [2.0, 1.0, 1.0, 1.0]  # of their distances
    # all: other weights, chosen on the validation part; without one a further record, searched on training identities.
    # size: a further record, by the queries' sizes.
    cfg.fusion.search = []

    cfg.vpfa = CfgNode()  # VPFA: low images' features moved by modules learned after training
    cfg.vpfa.enabled = False  # learn and evaluate the modules for every model that the job trains, or has trained
    cfg.vpfa.run = ""  # task "vpfa": folder of the trained run
    cfg.vpfa.modules = ["mean", "conditioned", "perceptron"]  # the last is the stage's own result
    cfg.vpfa.rates = []  # of the low views of training images; empty: those of its pairs, or of its low images
    cfg.vpfa.target = "sample"  # where a low feature is to go: sample (its own high one), prototype (its identity's)
    cfg.vpfa.hidden = 2048  # width of the perceptron
    cfg.vpfa.epochs = 120
    cfg.vpfa.batch_size = 32  # pairs
    cfg.vpfa.lr = 2e-4
    cfg.vpfa.weight_decay = 1e-5
    cfg.vpfa.stepsize = 30  # epochs after which the learning rate is multiplied by gamma, again and again
    cfg.vpfa.gamma = 0.5
    # Of these keys from target on: {lr: [0.0002, 0.001]}; all combinations are tried on validation, else training
    # identities.
    cfg.vpfa.search = CfgNode(**free)

    # Models of the host trained by the host's own engine on the same images, shown in the same table.
    cfg.compare = CfgNode()
    cfg.compare.models = []
    cfg.compare.weights = ""  # file of weights these start from
    return cfg


def get_config() -> CfgNode:
    """Return all keys with their defaults.

    Example:
        >>> get_config().train.precision
        'auto'
    """
    return add_xres_config(host_config())
