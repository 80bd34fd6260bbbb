from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from cleanfid.resize import build_resizer
from PIL import Image

from harness.engine.places import read_images
from harness.errors import DataError, DeclarationError
from harness.metrics.features.extract import content_key, features, resize
from harness.metrics.features.feature_network import mode_named
from harness.metrics.features.networks import fid_network, module_network
from harness.metrics.fidelity.frechet import frechet_distance
from harness.weights import locate as weights

CPU = torch.device("cpu")
INSTALLED = weights.find("fid-inception")  # on the developer's machine, before the tests move the harness's home


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))


class SmallNetwork(torch.nn.Module):
    """A random network that stands in for Inception; counts the batches it sees."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 7, 4), torch.nn.ReLU(), torch.nn.Conv2d(8, 12, 5, 4), torch.nn.ReLU()
        )
        self.batches = 0

    def forward(self, images):
        self.batches += 1
        return self.layers(images / 128 - 1).mean(dim=(2, 3))


def write_images(folder, count, seed):
    folder.mkdir()
    draw = np.random.default_rng(seed)
    for i in range(count):
        height, width = draw.integers(40, 90, 2)
        coarse = draw.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def folders(tmp_path):
    return write_images(tmp_path / "real", 17, 0), write_images(tmp_path / "synthetic", 13, 1)


@pytest.mark.parametrize(("mode", "name"), [("clean", "clean"), ("legacy", "legacy_pytorch")])
@pytest.mark.parametrize("shape", [(64, 64, 3), (531, 622, 3), (299, 299, 3)])
def test_resizing_is_bit_equal_to_clean_fid(mode, name, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(resize(image, 299, mode), build_resizer(name)(image).transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("mode", "name"), [("clean", "clean"), ("legacy", "legacy_pytorch")])
def test_frechet_distance_of_folders_equals_clean_fid_with_the_same_network(folders, mode, name):
    network = SmallNetwork().eval()
    expected = cleanfid.compute_fid(
        *map(str, folders),
        mode=name,
        custom_feat_extractor=network,
        num_workers=0,
        device=CPU,
        use_dataparallel=False,
        verbose=False,
    )
    ours = module_network("small", SmallNetwork())
    real, synthetic = (features(read_images(str(f)).images, ours, device=CPU, mode=mode) for f in folders)
    assert frechet_distance(real, synthetic) == pytest.approx(expected, rel=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    INSTALLED is None or INSTALLED.path.suffix != ".pt",
    reason="needs the TorchScript file of `harness weights fetch fid-inception`, to run it beside ours",
)
def test_the_standard_features_are_those_of_the_published_program(folders, monkeypatch):
    monkeypatch.setattr(weights, "find", lambda name: INSTALLED)
    images = read_images(str(folders[0])).images[:2]
    program = torch.jit.load(INSTALLED.path).eval()
    resized = torch.from_numpy(np.stack([build_resizer("clean")(image).transpose(2, 0, 1) for image in images]))
    with torch.no_grad():
        expected = program((resized - 128) / 128).numpy()
    np.testing.assert_allclose(features(images, fid_network(), device=CPU), expected, atol=1e-4)


def test_batch_size_and_order_change_nothing(folders):
    images = read_images(str(folders[0])).images[:]
    network = module_network("small", SmallNetwork())
    whole = features(images, network, device=CPU, cache=False)
    for size in (1, 5, 16):
        np.testing.assert_allclose(
            features(images, network, device=CPU, batch_size=size, cache=False), whole, atol=1e-5
        )
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_allclose(
        features([images[i] for i in order], network, device=CPU, cache=False), whole[order], atol=1e-5
    )


def test_features_are_bit_equal_on_any_number_of_cores_and_torchs_setting_is_left_as_it_was(folders):
    images = read_images(str(folders[0])).images[:]
    network = module_network("small", SmallNetwork())
    before = torch.get_num_threads()
    found = []
    try:
        for cores in (1, 2, 5):
            torch.set_num_threads(cores)
            found.append(features(images, network, device=CPU, cache=False))
            assert torch.get_num_threads() == cores
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == cores
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_progress_counts_every_image_and_ends_at_all(folders):
    images = read_images(str(folders[0])).images[:]
    told = []
    network = module_network("small", SmallNetwork())
    features(images, network, device=CPU, cache=False, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (17, 17)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_picture_that_cannot_be_read_ends_it_with_its_name(folders, tmp_path):
    (folders[0] / "99.png").write_bytes((folders[0] / "00.png").read_bytes()[:200])
    with pytest.raises(DataError, match=r"99\.png"):
        features(read_images(str(folders[0])).images, module_network("small", SmallNetwork()), device=CPU)


def test_pictures_are_measured_once_wherever_they_are(folders):
    images = read_images(str(folders[0])).images[:]
    module = SmallNetwork()
    first = features(images, module_network("small", module), device=CPU)
    seen = module.batches
    np.testing.assert_array_equal(features(list(images), module_network("small", module), device=CPU), first)
    assert module.batches == seen
    features(images[:5], module_network("small", module), device=CPU)
    assert module.batches > seen


def test_the_store_keeps_networks_modes_and_pictures_apart(folders):
    images = read_images(str(folders[0])).images[:]
    first = features(images, module_network("small", SmallNetwork(0)), device=CPU)
    other_weights = features(images, module_network("small", SmallNetwork(1)), device=CPU)
    other_mode = features(images, module_network("small", SmallNetwork(0)), device=CPU, mode="legacy")
    assert np.abs(first - other_weights).max() > 1e-3
    assert np.abs(first - other_mode).max() > 1e-4
    changed = [images[0] ^ np.uint8(64), *images[1:]]
    assert np.abs(features(changed, module_network("small", SmallNetwork(0)), device=CPU) - first)[0].max() > 1e-4


def test_keys_tell_shapes_and_orders_apart():
    a, b = np.zeros((2, 6, 3), np.uint8), np.ones((4, 3, 3), np.uint8)
    keys = {content_key([a, b]), content_key([b, a]), content_key([a]), content_key([a.reshape(3, 4, 3), b])}
    assert len(keys) == 4
    assert content_key(np.stack([a, a])) == content_key([a, a])


def test_files_and_arrays_have_the_same_features(folders):
    pictures = read_images(str(folders[1]))
    network = module_network("small", SmallNetwork())
    np.testing.assert_array_equal(
        features(pictures.images, network, device=CPU), features(pictures.images[:], network, device=CPU)
    )


def test_no_other_network_passes_for_the_standard_one():
    with pytest.raises(DeclarationError, match="cannot be called 'fid-inception'"):
        module_network("fid-inception", SmallNetwork())


def test_unknown_mode_and_no_images():
    with pytest.raises(DeclarationError, match="did you mean 'clean'"):
        mode_named("claen")
    with pytest.raises(DataError, match="no images"):
        features([], module_network("small", SmallNetwork()), device=CPU)
