"""Look at a part of a huge image and decode no more than that: an xarray with named axes, a chunk per tile.

Run: ``python examples/look_lazily.py latents.npy [--weights NAME|FILE] [--corner PX]`` (needs xarray)
"""

import argparse

import xarray

import tiler


def open_picture(latents, weights, *, tile_size_px=256):
    """Return the image as an array that is decoded where it is used."""
    pixels = tiler.decode_lazily(latents, weights=weights, tile_size_px=tile_size_px)
    # napari takes the same array, and decodes what is on the screen: napari.imshow(pixels)
    return xarray.DataArray(pixels, dims=("y", "x", "channel"), coords={"channel": ["red", "green", "blue"]})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("latents", help="a file of latents")
    parser.add_argument("--weights", default="photo", help="of the decoder (default: photo)")
    parser.add_argument("--corner", type=int, default=200, help="side of the part that is looked at, px")
    arguments = parser.parse_args()
    picture = open_picture(arguments.latents, arguments.weights)
    corner = picture.isel(y=slice(arguments.corner), x=slice(arguments.corner))
    print(f"{picture.sizes['y']} × {picture.sizes['x']} px, in the corner on average")
    for mean in corner.mean(("y", "x")).compute():  # here it is decoded
        print(f"{mean.channel.item()} {mean.item():.3f}")


if __name__ == "__main__":
    main()
