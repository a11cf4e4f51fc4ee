"""Writes checkpoints as training frameworks leave them, for tests/checkpoint/training.rs.

    python make.py [OUT]

Needs torch, numpy and omegaconf; VERSIONS below were used. Element i of a tensor is i - 5 unless
its line says otherwise; the test repeats the rule.
"""
import argparse, collections, datetime, decimal, enum, functools, json, pathlib, re, sys, types
import uuid, warnings

import numpy as np
import omegaconf
import torch

VERSIONS = "Python 3.11.7, torch 2.15.0, numpy 2.4.6, omegaconf 2.4.0"
out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
warnings.filterwarnings("ignore")


def module(name, *classes):
    """Makes classes importable from a module of this name, as pickle demands."""
    parts = name.split(".")
    for n in range(1, len(parts)):
        parent = sys.modules.setdefault(".".join(parts[:n]), types.ModuleType(parts[n - 1]))
        parent.__path__ = []
    made = sys.modules[name] = types.ModuleType(name)
    for c in classes:
        c.__module__, c.__qualname__ = name, c.__name__
        setattr(made, c.__name__, c)


class AttributeDict(dict):  # Lightning's hyper_parameters
    pass


class Reduced:
    def __reduce__(self):
        return Reduced, (), {"a": 1}, iter([1, 2]), iter([("k", "v")])

    def append(self, item): ...
    def extend(self, items): ...
    def __setitem__(self, key, value): ...


class Stateful:
    def __init__(self): self.lr = 0.1
    def __getstate__(self): return (1, [2, {"x": self.lr}])
    def __setstate__(self, state): ...
    def method(self): ...


class NewEx:
    def __new__(cls, *, size): return super().__new__(cls)
    def __getnewargs_ex__(self): return (), {"size": 3}


class Kind(enum.Enum):
    CNN = "cnn"


class Flags(enum.Flag):
    A = 1
    B = 2


class Holder:
    pass


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)


class Scaled(torch.Tensor):  # could show other values than the stored ones
    pass


module("lightning.pytorch.utilities.parsing", AttributeDict)
module("project", Reduced, Stateful, NewEx, Kind, Flags, Holder, Net, Scaled)


def rule(*shape, dtype=torch.float32):
    count = int(np.prod(shape))
    return (torch.arange(count) - 5).to(dtype).reshape(shape)


def save(name, content):
    torch.save(content, out / f"{name}.ckpt")
    old = out / f"{name}_legacy.ckpt"
    torch.save(content, old, _use_new_zipfile_serialization=False)
    # The old format holds the paths of the source files of modules on the machine that writes it.
    prefix = f"{sys.prefix}/".encode()
    old.write_bytes(old.read_bytes().replace(prefix, b"/" + b"x" * (len(prefix) - 2) + b"/"))
    return content


# Values beside the weights, from what training frameworks and scripts keep.
weight = rule(3, 4)
state = collections.OrderedDict({"fc.weight": weight, "fc.bias": rule(3), "tied.weight": weight})
state._metadata = collections.OrderedDict({"": {"version": 1}})
holder = Holder()
holder.itself, holder.weights = holder, state
tree = {"model": {"depth": 2, "sizes": [1, 2]}, "name": "${model.depth}"}
config = omegaconf.OmegaConf.create(tree)
best = {"best_model_score": torch.tensor(0.5), "dirpath": pathlib.PurePosixPath("/x")}
objects = {
    "epoch": 3,
    "pytorch-lightning_version": "2.5.0",
    "date": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
    "took": datetime.timedelta(seconds=3),
    "path": pathlib.PurePosixPath("/x"),
    "here": pathlib.Path("y"),
    "score": np.float64(0.5),
    "array": np.arange(3.0),
    "dtype": np.dtype("float32"),
    "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/x"), kind=Kind.CNN),
    "hyper_parameters": AttributeDict(root=pathlib.PurePosixPath("/x"), config=config),
    "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": best},
    "config": config,
    "kind": Kind.CNN,
    "flags": Flags.A | Flags.B,
    "activation": functools.partial(torch.nn.GELU, approximate="tanh"),
    "method": Stateful().method,
    "history": collections.defaultdict(list, {"loss": [1.0, 2.0]}),
    "counts": collections.Counter({"cat": 3}),
    "queue": collections.deque([1, 2], maxlen=3),
    "reduced": Reduced(),
    "stateful": Stateful(),
    "new": NewEx(size=3),
    "holder": holder,
    "size": torch.Size([2, 3]),
    "device": torch.device("cuda", 1),
    "torch_dtype": torch.float16,
    "rng_state": torch.get_rng_state()[:8].clone(),
    "generator": torch.Generator(),
    "uuid": uuid.UUID(int=7),
    "decimal": decimal.Decimal("0.1"),
    "complex": 1 + 2j,
    "range": range(3),
    "slice": slice(1, 2),
    "pattern": re.compile("a+"),
    "bytes": bytearray(b"abc"),
    "set": {1, 2},
    "frozen": frozenset([1]),
    "large": 1 << 100,
    "class": Net,
    "sparse": torch.eye(2).to_sparse(),
    "ellipsis": ...,
    "state_dict": state,
}
save("objects", objects)
torch.save(objects, out / "objects_protocol5.ckpt", pickle_protocol=5)

# Tensors whose values are those that torch shows, whatever the file stores.
base = rule(3, 4)
z = torch.complex(rule(3), -rule(3) * 2)
tagged = rule(3)
tagged.tag = "kept"
parameter = torch.nn.Parameter(rule(3))
parameter.no_weight_decay = True
views = {
    "transposed": base.t(),
    "column": base[:, 1],
    "expanded": base[:1, 2:3].expand(2, 3),
    "slice": base[1:, 1:3],
    "scalar": base[2, 3],
    "empty": torch.empty(0, 4),
    "parameter": torch.nn.Parameter(rule(3)),
    "parameter_with_attribute": parameter,
    "tensor_with_attribute": tagged,
    "buffer": torch.nn.Buffer(rule(3)),
    "bool": rule(3) > -5,
    "imaginary_of_conjugate": z.conj().imag,
    "negative": torch._neg_view(base),
    "negative_transposed": torch._neg_view(base).t(),
    "negative_parameter": torch.nn.Parameter(torch._neg_view(base)),
    "negative_tagged": torch._neg_view(rule(3)),
}
views["negative_tagged"].tag = "kept"
for name in (
    "float64 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32".split()
):
    dtype = getattr(torch, name)
    values = rule(7) if not name.startswith("u") else torch.arange(7)
    views[name] = values.to(dtype)
    if name not in ["uint16", "uint32"]:
        views[f"negative_{name}"] = torch._neg_view(values.to(dtype))
save("views", views)
expected = {}
for name, view in views.items():
    values = view.detach().resolve_neg().to(torch.float64).flatten().tolist()
    expected[name] = {"shape": list(view.shape), "values": values}
(out / "views.json").write_text(json.dumps(expected, indent=0) + "\n")

# Tensors that cannot be read as they are, each beside one that can.
plain = {"plain": rule(3)}
refused = {
    "sparse": {"w": torch.eye(3).to_sparse(), **plain},
    "csr": {"w": torch.eye(3).to_sparse_csr(), **plain},
    "quantized": {"w": torch.quantize_per_tensor(rule(4), 0.1, 0, torch.qint8), **plain},
    "channels": {
        "w": torch.quantize_per_channel(rule(2, 2), torch.ones(2), torch.zeros(2), 0, torch.quint8),
        **plain,
    },
    "complex": {"w": z, **plain},
    "conjugate": {"w": z.conj(), **plain},
    "meta": {"w": torch.empty(3, device="meta"), **plain},
    "float8": {"w": rule(4).to(torch.float8_e4m3fn), **plain},
    "uint64": {"w": rule(4).to(torch.uint64), **plain},
    "nested": {"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), **plain},
    "subclass": {"w": rule(3).as_subclass(Scaled), **plain},
    "inside": {"w": holder, **plain},
    "array": {"w": np.arange(3.0), **plain},
    "module": Net(),
    "fine": plain,
}
save("refused", refused)
torch.save(Net(), out / "module.ckpt")
found = sys.version.split()[0], torch.__version__, np.__version__, omegaconf.__version__
print(VERSIONS, "expected; found", *found)
