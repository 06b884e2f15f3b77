"""The functions of `tn` that are no `Op`: primitives and short compositions of them, of Values or of tensors."""

from .ir import primitives as P
from .ir.ops import shapes, statistics
from .runtime.tensor_calls import also_of_tensors

abs = also_of_tensors(P.abs)
add = also_of_tensors(P.add)
broadcast_to = also_of_tensors(P.broadcast_to)
cast = also_of_tensors(P.cast)
cat = also_of_tensors(P.cat)
cos = also_of_tensors(P.cos)
div = also_of_tensors(P.div)
eq = also_of_tensors(P.eq)
erf = also_of_tensors(P.erf)
exp = also_of_tensors(P.exp)
expm1 = also_of_tensors(P.expm1)
floor = also_of_tensors(P.floor)
ge = also_of_tensors(P.ge)
gt = also_of_tensors(P.gt)
le = also_of_tensors(P.le)
log = also_of_tensors(P.log)
log1p = also_of_tensors(P.log1p)
logical_and = also_of_tensors(P.logical_and)
logical_not = also_of_tensors(P.logical_not)
logical_or = also_of_tensors(P.logical_or)
lt = also_of_tensors(P.lt)
matmul = also_of_tensors(P.matmul)
maximum = also_of_tensors(P.maximum)
minimum = also_of_tensors(P.minimum)
mul = also_of_tensors(P.mul)
narrow = also_of_tensors(P.narrow)
ne = also_of_tensors(P.ne)
neg = also_of_tensors(P.neg)
pow = also_of_tensors(P.pow)
rsqrt = also_of_tensors(P.rsqrt)
sign = also_of_tensors(P.sign)
sin = also_of_tensors(P.sin)
sqrt = also_of_tensors(P.sqrt)
sub = also_of_tensors(P.sub)
tanh = also_of_tensors(P.tanh)
where = also_of_tensors(P.where)

amax = also_of_tensors(statistics.amax)
amin = also_of_tensors(statistics.amin)
max = also_of_tensors(statistics.max)
min = also_of_tensors(statistics.min)
sum = also_of_tensors(statistics.sum)
var_mean = also_of_tensors(statistics.var_mean)

reshape = also_of_tensors(shapes.reshape)
transpose = also_of_tensors(shapes.transpose)

for _name, _function in tuple(globals().items()):
    if hasattr(_function, "__wrapped__"):
        # Where pickle finds it.
        _function.__module__, _function.__qualname__ = __name__, _name
