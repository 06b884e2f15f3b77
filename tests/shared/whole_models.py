"""Whole models, small: what people train, from an MLP to a GAN, as torch modules that compute their own loss.

Each takes tensors and returns a dict with `loss`, so that tests and benchmarks train them all alike. What is random is
an input, so that everybody draws the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sequence_models import GPT, Decoder, Encoder, GRUTagger, Llama, LSTMClassifier, TextCNN, VisionTransformer, WaveNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

ROWS, WIDTH, CLASSES, WORDS, LENGTH = 6, 8, 4, 11, 5
Results = dict[str, Tensor]
Example = Callable[[int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Model:
    """What makes a module, and what makes its inputs for a number of rows."""

    module: Callable[[], nn.Module]
    example: Example


def rows(*widths: int) -> Example:
    return lambda n: tuple(torch.randn(n, width) for width in widths)


def classes(n: int, count: int = CLASSES, *shape: int) -> Tensor:
    return torch.randint(0, count, (n, *shape))


def labelled(*shape: int) -> Example:
    return lambda n: (torch.randn(n, *shape), classes(n))


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with activations between them."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


class Classifier(nn.Module):
    """Any network that gives logits, with its loss and how many it gets right."""

    def __init__(self, net: nn.Module, smoothing: float = 0.0) -> None:
        super().__init__()
        self.net, self.smoothing = net, smoothing

    def forward(self, x: Tensor, y: Tensor) -> Results:
        logits = self.net(x).flatten(0, -2)
        right = (logits.argmax(-1) == y.flatten()).float()
        loss = F.cross_entropy(logits, y.flatten(), label_smoothing=self.smoothing)
        return {"loss": loss, "accuracy": right.mean(), "logits": logits}


class ResidualMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), *mlp(WIDTH, 16, WIDTH, act=nn.GELU)) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.head(x)
        return out


class Mixer(nn.Module):
    """Patches mixed over positions, then over features."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.channels = mlp(LENGTH, 8, LENGTH, act=nn.GELU), mlp(WIDTH, 12, WIDTH, act=nn.GELU)
        self.first, self.second, self.head = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.first(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.second(x))
        out: Tensor = self.head(x.mean(dim=1))
        return out


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(WIDTH, 4, 2), nn.Sequential(*mlp(2, 4, WIDTH), nn.Sigmoid())

    def forward(self, x: Tensor) -> Results:
        code = self.encoder(x)
        again = self.decoder(code)
        return {"loss": F.binary_cross_entropy(again, torch.sigmoid(x)), "again": again, "code": code}


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(WIDTH, 4), nn.Linear(2, WIDTH)

    def forward(self, x: Tensor, noise: Tensor) -> Results:
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        again = self.decoder(mean + (0.5 * log_var).exp() * noise)
        divergence = -0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum(-1).mean()
        return {"loss": F.mse_loss(again, x, reduction="sum") / x.size(0) + divergence, "divergence": divergence}


class DoubleConv(nn.Sequential):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Down, up again, and what was there before beside it; a class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up = DoubleConv(1, 3), DoubleConv(3, 4), DoubleConv(7, 3)
        self.grow, self.head = nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> Results:
        kept = self.down(x)
        low = self.grow(self.middle(F.max_pool2d(kept, 2)))
        logits = self.head(self.up(torch.cat([kept, low], dim=1)))
        return {"loss": F.cross_entropy(logits, y), "logits": logits}


class BasicBlock(nn.Module):
    """The block of ResNet, with a convolution beside it where sizes change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.relu, self.beside = nn.ReLU(inplace=True), nn.Sequential()
        if stride > 1:
            self.beside = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.beside(x)
        out = self.relu(out)
        return out


def resnet() -> nn.Module:
    blocks = BasicBlock(2, 2, 1), BasicBlock(2, 4, 2)
    return Classifier(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)))


def lenet() -> nn.Module:
    features = nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(2, 4, 3), nn.Tanh(), nn.MaxPool2d(2)
    return Classifier(nn.Sequential(*features, nn.Flatten(), *mlp(4, WIDTH, CLASSES, act=nn.Tanh)))


class SiameseTriplet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp(WIDTH, WIDTH, 4, act=nn.PReLU)

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Results:
        return {"loss": F.triplet_margin_loss(*map(self.branch, (anchor, positive, negative)), margin=0.5)}


class DLRM(nn.Module):
    """Dense features, bags of embeddings, and the products of their pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(7, 4, mode=mode) for mode in ("sum", "mean"))
        self.bottom, self.top = mlp(WIDTH, 6, 4), mlp(7, 6, 1)

    def forward(self, x: Tensor, first: Tensor, second: Tensor, clicked: Tensor) -> Results:
        parts = [
            torch.relu(self.bottom(x)),
            *(table(ids) for table, ids in zip(self.tables, (first, second), strict=True)),
        ]
        stacked = torch.stack(parts, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        low = torch.tensor([1, 2, 2]), torch.tensor([0, 0, 1])
        logits = self.top(torch.cat([parts[0], products[:, low[0], low[1]]], dim=-1)).squeeze(-1)
        return {"loss": F.binary_cross_entropy_with_logits(logits, clicked), "logits": logits}


class GAN(nn.Module):
    """A generator and a discriminator, of which one is trained: with `fooling` the generator, by how real the
    discriminator takes what it makes to be; else the discriminator."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, fooling: bool) -> None:
        super().__init__()
        self.generator, self.discriminator, self.fooling = generator, discriminator, fooling
        self.train_one()

    def train_one(self) -> None:
        self.generator.requires_grad_(self.fooling)
        self.discriminator.requires_grad_(not self.fooling)

    def forward(self, noise: Tensor, real: Tensor) -> Results:
        made = self.generator(noise)
        if self.fooling:
            return {"loss": F.softplus(-self.discriminator(made)).mean(), "made": made}
        fake, true = self.discriminator(torch.cat([made.detach(), real])).chunk(2)
        return {"loss": F.softplus(fake).mean() + F.softplus(-true).mean()}


def gan(*fooling: bool) -> list[GAN]:
    """Losses of one generator and one discriminator."""
    generator, discriminator = mlp(4, 8, WIDTH), mlp(WIDTH, 8, 1, act=nn.Tanh)
    return [GAN(generator, discriminator, each) for each in fooling]


class SimCLR(nn.Module):
    """Two views of each example, near each other and far from all the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.projector = mlp(WIDTH, 16, WIDTH), mlp(WIDTH, 16, WIDTH)

    def forward(self, x: Tensor, y: Tensor) -> Results:
        rows = x.size(0)
        z = F.normalize(self.projector(F.relu(self.encoder(torch.cat([x, y])))), dim=-1)
        alike = z @ z.T / 0.5
        itself = torch.eye(2 * rows, dtype=torch.bool)
        pairs = torch.arange(2 * rows).roll(rows)
        return {"loss": F.cross_entropy(alike.masked_fill(itself, -1e9), pairs)}


class CLIP(nn.Module):
    """Pictures and texts, with a temperature that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures, self.texts = mlp(WIDTH, 16, 4, act=nn.GELU), nn.EmbeddingBag(WORDS, 4)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, picture: Tensor, words: Tensor) -> Results:
        x, y = F.normalize(self.pictures(picture), dim=-1), F.normalize(self.texts(words), dim=-1)
        logits = self.scale.exp() * x @ y.t()
        right = torch.arange(picture.size(0))
        return {"loss": (F.cross_entropy(logits, right) + F.cross_entropy(logits.t(), right)) / 2, "logits": logits}


class MatrixFactorization(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(7, 4), nn.Embedding(9, 4)
        self.of_user, self.of_item = nn.Embedding(7, 1), nn.Embedding(9, 1)

    def forward(self, user: Tensor, item: Tensor, rating: Tensor) -> Results:
        biases = (self.of_user(user) + self.of_item(item)).squeeze(-1)
        guessed = (self.users(user) * self.items(item)).sum(-1) + biases
        held = self.users(user).pow(2).mean() + self.items(item).pow(2).mean()
        return {"loss": F.mse_loss(guessed, rating) + 0.01 * held, "guessed": guessed}


class Distillation(nn.Module):
    """A student learns what a teacher gives, which stays as it is, and the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = mlp(WIDTH, 16, CLASSES).requires_grad_(False), mlp(WIDTH, 4, CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> Results:
        with torch.no_grad():
            wanted = F.softmax(self.teacher(x) / 2, dim=-1)
        logits = self.student(x)
        soft = F.kl_div(F.log_softmax(logits / 2, dim=-1), wanted, reduction="batchmean")
        return {"loss": 0.5 * F.cross_entropy(logits, y) + 2 * soft, "soft": soft}


class TwoHeads(nn.Module):
    """Two tasks over one body, weighted by uncertainties that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.SiLU())
        self.kind, self.size = nn.Linear(16, CLASSES), nn.Linear(16, 1)
        self.log_var = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, kind: Tensor, size: Tensor) -> Results:
        h = self.body(x)
        losses = torch.stack([F.cross_entropy(self.kind(h), kind), F.huber_loss(self.size(h).squeeze(1), size)])
        return {"loss": (losses * torch.exp(-self.log_var) + self.log_var).sum(), "losses": losses}


class SoftExperts(nn.Module):
    """A mixture of experts, each of which is asked as far as a gate says."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(WIDTH, 3), nn.ModuleList(mlp(WIDTH, 12, CLASSES) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        asked = F.softmax(self.gate(x), dim=-1)
        given = torch.stack([expert(x) for expert in self.experts], dim=1)
        return torch.einsum("be,bec->bc", asked, given)


class GraphConvolution(nn.Module):
    """Each node is the mean of its neighbours; two rounds, and a class for each node."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, edges: Tensor, y: Tensor) -> Results:
        near = edges / edges.sum(dim=-1, keepdim=True)
        logits = near @ self.second(F.relu(near @ self.first(x)))
        return {"loss": F.cross_entropy(logits, y), "logits": logits}


class Flow(nn.Module):
    """Coupling layers: half of the numbers say how the other half is scaled and moved."""

    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(mlp(WIDTH // 2, 8, WIDTH, act=nn.Tanh) for _ in range(2))

    def forward(self, x: Tensor) -> Results:
        log_volume = torch.zeros(x.size(0), device=x.device, dtype=x.dtype)
        for coupling in self.couplings:
            kept, moved = x.chunk(2, dim=-1)
            scale, shift = coupling(kept).chunk(2, dim=-1)
            x = torch.cat([moved * torch.tanh(scale).exp() + shift, kept], dim=-1)
            log_volume = log_volume + torch.tanh(scale).sum(-1)
        return {"loss": (0.5 * x.square().sum(-1) - log_volume).mean(), "z": x}


class DeepQ(nn.Module):
    """What an action was worth, against the best of what a network that is held still says of the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.held = mlp(WIDTH, 16, 3), mlp(WIDTH, 16, 3).requires_grad_(False)

    def forward(self, state: Tensor, action: Tensor, reward: Tensor, following: Tensor) -> Results:
        worth = self.online(state).gather(1, action.unsqueeze(1)).squeeze(1)
        with torch.no_grad():
            wanted = reward + 0.9 * self.held(following).max(dim=1).values
        return {"loss": F.smooth_l1_loss(worth, wanted), "worth": worth}


class ActorCritic(nn.Module):
    """The clipped loss of PPO, with a value and an entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = mlp(WIDTH, 16, act=nn.Tanh), nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, state: Tensor, action: Tensor, before: Tensor, advantage: Tensor) -> Results:
        h = torch.tanh(self.body(state))
        log_prob = F.log_softmax(self.actor(h), dim=-1)
        ratio = (log_prob.gather(1, action.unsqueeze(1)).squeeze(1) - before).exp()
        gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        entropy = -(log_prob.exp() * log_prob).sum(-1).mean()
        return {"loss": F.mse_loss(self.critic(h).squeeze(-1), advantage) - gain - 0.01 * entropy, "entropy": entropy}


def _words(*shape: int) -> Example:
    """Words, and a class for each row, or another word for each word."""
    return lambda n: (classes(n, WORDS, LENGTH), classes(n, WORDS, *shape) if shape else classes(n))


def _edges(n: int) -> Tensor:
    return (torch.eye(n) + (torch.rand(n, n) > 0.5)).clamp(max=1)


MODELS: dict[str, Model] = {
    "MLP": Model(
        lambda: Classifier(nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), *mlp(16, 16, CLASSES))),
        labelled(WIDTH),
    ),
    "residual MLP": Model(lambda: Classifier(ResidualMLP(), smoothing=0.1), labelled(WIDTH)),
    "weight norm": Model(
        lambda: Classifier(nn.Sequential(weight_norm(nn.Linear(WIDTH, 16)), nn.ELU(), nn.Linear(16, CLASSES))),
        labelled(WIDTH),
    ),
    "mixer": Model(lambda: Classifier(Mixer()), labelled(LENGTH, WIDTH)),
    "autoencoder": Model(Autoencoder, rows(WIDTH)),
    "VAE": Model(VAE, rows(WIDTH, 2)),
    "U-Net": Model(UNet, lambda n: (torch.randn(n, 1, 4, 4), classes(n, 2, 4, 4))),
    "ResNet": Model(resnet, labelled(2, 6, 6)),
    "LeNet": Model(lenet, labelled(1, 8, 8)),
    "LSTM": Model(lambda: Classifier(LSTMClassifier()), _words()),
    "GRU": Model(lambda: Classifier(GRUTagger()), _words(LENGTH)),
    "text CNN": Model(lambda: Classifier(TextCNN()), _words()),
    "WaveNet": Model(lambda: Classifier(WaveNet()), _words(LENGTH)),
    "transformer encoder": Model(lambda: Classifier(Encoder()), _words()),
    "transformer decoder": Model(
        Decoder, lambda n: (classes(n, WORDS, LENGTH), classes(n, WORDS, 4), classes(n, WORDS, 4))
    ),
    "GPT": Model(lambda: Classifier(GPT()), _words(LENGTH)),
    "LLaMA": Model(lambda: Classifier(Llama()), _words(LENGTH)),
    "vision transformer": Model(lambda: Classifier(VisionTransformer()), labelled(1, 8, 8)),
    "siamese with triplets": Model(SiameseTriplet, rows(WIDTH, WIDTH, WIDTH)),
    "DLRM": Model(
        DLRM, lambda n: (torch.randn(n, WIDTH), classes(n, 7, 3), classes(n, 7, 2), torch.randint(0, 2, (n,)).float())
    ),
    "generator": Model(lambda: gan(True)[0], rows(4, WIDTH)),
    "discriminator": Model(lambda: gan(False)[0], rows(4, WIDTH)),
    "SimCLR": Model(SimCLR, rows(WIDTH, WIDTH)),
    "CLIP": Model(CLIP, lambda n: (torch.randn(n, WIDTH), classes(n, WORDS, 3))),
    "matrix factorization": Model(MatrixFactorization, lambda n: (classes(n, 7), classes(n, 9), torch.rand(n))),
    "distillation": Model(Distillation, labelled(WIDTH)),
    "two heads": Model(TwoHeads, lambda n: (torch.randn(n, WIDTH), classes(n), torch.randn(n))),
    "mixture of experts": Model(lambda: Classifier(SoftExperts()), labelled(WIDTH)),
    "graph convolution": Model(GraphConvolution, lambda n: (torch.randn(n, WIDTH), _edges(n), classes(n))),
    "normalizing flow": Model(Flow, rows(WIDTH)),
    "deep Q": Model(DeepQ, lambda n: (torch.randn(n, WIDTH), classes(n, 3), torch.randn(n), torch.randn(n, WIDTH))),
    "actor and critic": Model(
        ActorCritic, lambda n: (torch.randn(n, WIDTH), classes(n, 3), -torch.rand(n), torch.randn(n))
    ),
}


def made(name: str, seed: int = 0, count: int = ROWS) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model and its inputs, of so many rows."""
    torch.manual_seed(seed)
    return MODELS[name].module(), MODELS[name].example(count)
