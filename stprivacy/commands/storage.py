"""What is kept of videos: `stprivacy videos` keeps raw ones in the storage, `stprivacy purge` removes them and what was made of them.

Imports wait until a command runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stprivacy.errors import UserError

if TYPE_CHECKING:
    from stprivacy.data.purge import Removal


@click.command()
@click.argument("name", required=False)
@click.option("--raw", is_flag=True, help="Also remove your own videos: dataset.source, and what `videos put` sent. Needs --yes.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def purge(name: str | None, raw: bool, yes: bool) -> None:
    """Remove what was made of a data set's videos.

    Clips, shards and caches of data set NAME (default: that of params.yaml): here, in DVC's cache and, with STPRIVACY_STORAGE set, in the
    storage, where nothing may be uploading meanwhile. It shows what there is and asks first. Models, results and what MLflow holds stay;
    docs/security.md says what of them shows people.

    \b
    stprivacy purge                    show, ask, remove
    stprivacy purge weizmann --yes
    stprivacy purge --raw --yes        the videos themselves, too
    """
    from stprivacy.config import load_params
    from stprivacy.data.purge import dvc_settings, of_source, removals
    from stprivacy.data.storage import configured_url, open_storage

    project = Path()
    dataset = load_params().dataset if raw or name is None else None
    if raw and not yes:
        raise UserError("--raw: removes videos that nothing here can make again; say --yes as well")
    if raw and dataset and name not in (None, dataset.name):
        raise UserError(f"--raw: params.yaml is about {dataset.name}, not {name}; `stprivacy params use` changes that")
    name = name or (dataset.name if dataset else "")
    storage = open_storage() if configured_url() else None
    found = removals(name, project, storage, raw)
    if raw and dataset:
        found += of_source(dataset.source, name, project, storage)
    if not found:
        click.echo(f"{name}: nothing to remove")
    else:
        _show(found, "would remove" if not yes else "removes")
        if not yes:
            click.confirm("remove all of it?", abort=True)
        for removal in found:
            removal.remove()
        click.echo(f"{name}: removed {sum(one.files for one in found)} files, {sum(one.bytes for one in found) / 1e6:.1f} MB")
    for remote in dvc_settings(project)[1]:
        click.echo(
            f"note: DVC's remote {remote} may hold copies: `dvc gc --workspace --cloud --remote {remote}` removes there what this "
            "folder's dvc.lock doesn't name; take the data set out of it first, by `dvc repro` with another"
        )


def _show(found: list["Removal"], verb: str) -> None:
    for one in found:
        click.echo(f"{verb} {one.place}: {one.files} files, {one.bytes / 1e6:.1f} MB")


@click.group()
def videos() -> None:
    """Keep the raw videos of params.yaml's data set in the storage.

    The folder of dataset.source, whole, is kept at STPRIVACY_STORAGE, from which another machine gets it. Nothing goes there by itself;
    `stprivacy purge --raw --yes` removes it here and there.

    \b
    stprivacy videos put                       where the videos are
    stprivacy videos get && dvc repro          on another machine
    """


@videos.command()
@click.option("--replace", is_flag=True, help="Leave out there what isn't in the folder any more.")
def put(replace: bool) -> None:
    """Send the folder of dataset.source. Files that are there aren't sent again; a broken upload goes on with the next file."""
    from stprivacy.config import load_params
    from stprivacy.data.raw_videos import put_videos, raw_key
    from stprivacy.data.storage import open_storage, read_tree

    dataset, storage = load_params().dataset, open_storage()
    new = put_videos(storage, dataset, Path(), replace)
    tree = read_tree(storage, raw_key(dataset.name))
    megabytes = sum(entry.bytes for entry in tree.values()) / 1e6
    click.echo(f"{dataset.source}: {len(tree)} files, {megabytes:.1f} MB, are in {storage.url}; {new} of them were new there")


@videos.command()
def get() -> None:
    """Bring the videos to dataset.source. A folder with other content stays as it is; a broken download goes on where it broke."""
    from stprivacy.config import load_params
    from stprivacy.data.raw_videos import get_videos
    from stprivacy.data.storage import open_storage

    dataset, storage = load_params().dataset, open_storage()
    click.echo(f"{dataset.source}: here, {get_videos(storage, dataset, Path())} files fetched from {storage.url}")
