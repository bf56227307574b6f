"""Stage shard: pack clips into tar shards with an index of offsets and checksums; with STPRIVACY_STORAGE set, send what is new there."""

import argparse
from pathlib import Path

from stprivacy import tracking
from stprivacy.config import PARAMS_FILE, load_params
from stprivacy.data.storage import configured_url, open_storage, put_folder
from stprivacy.errors import exit_with_one_line
from stprivacy.stages import folder_md5
from stprivacy.times import timed


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.shard", description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    params = load_params(parser.parse_args().params)
    clips, target = Path("data/clips") / params.dataset.name, Path("data/shards") / params.dataset.name
    with timed("shard"), tracking.start("shard", params, "shard", inputs=[clips]) as run:
        from stprivacy.data.shards import write_shards

        counts = write_shards(clips, target, params.shard.max_megabytes)
        run.metrics({name: float(value) for name, value in counts.items()})
        if configured_url():
            storage = open_storage()
            new = put_folder(storage, target, folder_md5(target).removesuffix(".dir"), progress=True)  # as a job's inputs are named
            print(f"{storage.url}: {new} of {counts['shards'] + 2} files were new")  # index and dataset.json beside the shards
    print(f"{target}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))


if __name__ == "__main__":
    main()
