"""A bucket as storage, by boto3, which is imported here alone. Credentials, region, endpoint and CA are whatever boto3 finds (AWS_*).

Only what all servers can is asked of one: put, multipart, get with a range, head, list, delete. Where an answer begins is read from
Content-Range, since some servers answer a range with 200; an ETag only tells one state of an object from another.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)

from stprivacy.data.storage import BLOCK, Keys, Storage, check_content, checked_key, file_sha256, named_sha256, told
from stprivacy.errors import RunError, UserError

PART = 16 << 20
"""Bytes of a part of an upload, and of the largest that is sent in one."""
ATTEMPTS = 8
"""Of each request, with growing pauses of half a minute or so together; AWS_MAX_ATTEMPTS says otherwise."""
FRESH_STARTS = 3
"""Of a transfer that broke off between requests; a download counts anew whenever bytes arrive."""
REFUSED, MISSING = {400, 401, 403}, {"404", "NoSuchKey", "NotFound"}


class S3Storage(Storage):
    """`s3://bucket/prefix`. Nothing is asked of the server before the first call."""

    def __init__(self, url: str):
        place = urlsplit(url)
        self.bucket, prefix = place.netloc, place.path.strip("/")
        if not self.bucket:
            raise UserError(f"STPRIVACY_STORAGE = {url}: names no bucket; write s3://bucket/prefix")
        self.prefix = f"{checked_key(prefix)}/" if prefix else ""
        self.url = f"s3://{self.bucket}/{prefix}".rstrip("/")
        self.client = _client()
        self.transfer = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)

    def put(self, local: Path, key: str) -> str:
        with told(local):
            sha256, size = file_sha256(local), local.stat().st_size
            if self._holds(key, local, size):
                return sha256
            self._send(key, local)
        if self._head(key)[0] != size:
            raise RunError(f"{self.url}/{key}: didn't arrive whole; run again, and look at the server's disk")
        return sha256

    def _send(self, key: str, local: Path) -> None:
        """Upload, from the beginning when a server that was started again has forgotten the parts that it had."""
        failures = 0
        while True:
            with self._explaining(key):
                try:
                    return self.client.upload_file(str(local), self.bucket, self._key(key), Config=self.transfer)
                except (S3UploadFailedError, BotoCoreError, ClientError) as error:
                    cause = error.__context__ if isinstance(error, S3UploadFailedError) and error.__context__ else error
                    failures += 1
                    if failures >= FRESH_STARTS or not _may_pass(cause):
                        raise cause from None
            time.sleep(failures)

    def get_alone(self, key: str, local: Path, sha256: str | None = None) -> None:
        name, expected = f"{self.url}/{key}", sha256 or named_sha256(key)
        part = local.with_name(f".{local.name}.part")
        with told(local):
            local.parent.mkdir(parents=True, exist_ok=True)
            if not expected:
                part.unlink(missing_ok=True)  # nothing would tell whether an earlier process left it of this very object
            resumed = part.exists()
            try:
                self._fetch(key, part)
                if resumed and file_sha256(part) != expected:
                    part.unlink()
                    self._fetch(key, part)
                check_content(part, expected, name)
                part.replace(local)
            finally:
                if not expected:
                    part.unlink(missing_ok=True)

    def _fetch(self, key: str, part: Path) -> None:
        """Bring the part file to the object's length, from where it ends, over broken connections and servers that start again."""
        size, etag = self._head(key)
        failures, ended_early = 0, False
        part.touch()
        while (offset := part.stat().st_size) != size:
            if offset > size:
                os.truncate(part, 0)
                continue
            with self._explaining(key):
                try:
                    answer = self.client.get_object(Bucket=self.bucket, Key=self._key(key), Range=f"bytes={offset}-")
                    if answer["ETag"] != etag:  # it was replaced meanwhile
                        size, etag = self._head(key)
                        os.truncate(part, 0)
                        continue
                    _write(answer, part)
                except (BotoCoreError, ClientError) as error:
                    if isinstance(error, ClientError) and error.response["Error"]["Code"] == "InvalidRange":
                        os.truncate(part, 0)
                        if ended_early:
                            part.unlink()
                            raise RunError(f"{self.url}/{key}: ends at {offset} of its {size} bytes; delete it, put it again") from error
                        ended_early = True
                        continue
                    failures = 1 if part.stat().st_size > offset else failures + 1
                    if failures >= FRESH_STARTS or not _may_pass(error):
                        raise
                    time.sleep(failures)

    def put_bytes(self, key: str, content: bytes) -> None:
        with self._explaining(key):
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content)

    def get_bytes(self, key: str) -> bytes:
        with self._explaining(key):
            for left in reversed(range(FRESH_STARTS)):  # a body that breaks off is beyond the attempts of its request
                answer = self.client.get_object(Bucket=self.bucket, Key=self._key(key))
                try:
                    return bytes(answer["Body"].read())
                except BotoCoreError:
                    if not left:
                        raise
        raise AssertionError("every turn of the loop returns, goes on or raises")

    def exists(self, key: str) -> bool:
        return self._find(key) is not None

    def list(self, prefix: str) -> dict[str, int]:
        top = self._key(prefix) if prefix else self.prefix
        found = {}
        with self._explaining(prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=top):
                for item in page.get("Contents", []):
                    if not prefix or item["Key"] == top or item["Key"].startswith(f"{top}/"):
                        found[item["Key"].removeprefix(self.prefix)] = item["Size"]
        return dict(sorted(found.items()))

    def delete(self, prefix: str) -> Keys:
        keys = [*self.list(checked_key(prefix))]
        for first in range(0, len(keys), 1000):
            batch = [{"Key": self._key(key)} for key in keys[first : first + 1000]]
            with self._explaining(prefix):
                answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
            if errors := answer.get("Errors"):
                raise RunError(f"{self.url}/{errors[0].get('Key')}: not removed ({errors[0].get('Code')}), nor {len(errors) - 1} others")
        return keys

    def _key(self, key: str) -> str:
        return self.prefix + checked_key(key)

    def _head(self, key: str) -> tuple[int, str]:
        """Length and ETag. Raises UserError when there is no such object."""
        found = self._find(key)
        if found is None:
            raise UserError(f"{self.url}/{key}: no such object in the storage; see STPRIVACY_STORAGE, or run the stage that makes it")
        return found

    def _find(self, key: str) -> tuple[int, str] | None:
        with self._explaining(key):
            try:
                answer = self.client.head_object(Bucket=self.bucket, Key=self._key(key))
            except ClientError as error:
                if error.response["Error"]["Code"] not in MISSING:
                    raise
                self.client.head_bucket(Bucket=self.bucket)  # an answer without a body doesn't say which of the two is missing
                return None
        return answer["ContentLength"], answer["ETag"]

    def _holds(self, key: str, local: Path, size: int) -> bool:
        """Is this very content there? A name that is a checksum says so; else an ETag that is made as servers commonly make it."""
        found = self._find(key)
        if found is None or found[0] != size:
            return False
        return named_sha256(key) is not None or found[1].strip('"') in _common_etags(local)

    @contextmanager
    def _explaining(self, key: str) -> Iterator[None]:
        """Every error of boto3 as one line."""
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise self._explained(error, f"{self.url}/{key}" if key else self.url) from error

    def _explained(self, error: BotoCoreError | ClientError, name: str) -> UserError | RunError:
        endpoint = self.client.meta.endpoint_url
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return UserError(f"{self.url}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
        if isinstance(error, SSLError):
            return UserError(f"{self.url}: the certificate of {endpoint} isn't trusted; AWS_CA_BUNDLE names a file with its authority")
        if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
            return RunError(f"{self.url}: nothing answers at {endpoint}; start the server, or mend AWS_ENDPOINT_URL, and run again")
        if not isinstance(error, ClientError):
            return RunError(f"{name}: broken off, also when repeated: {' '.join(str(error).split())}; run again, it goes on from there")
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code == "NoSuchBucket" or (code in MISSING and error.operation_name in ("HeadBucket", "ListObjectsV2")):
            return UserError(f"{self.url}: no bucket {self.bucket} at {endpoint}; make it, or mend STPRIVACY_STORAGE")
        if code in MISSING:
            return UserError(f"{name}: no such object in the storage; see STPRIVACY_STORAGE, or run the stage that makes it")
        if status in REFUSED:
            return UserError(f"{name}: refused ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do in the bucket")
        return RunError(f"{name}: {endpoint} failed at {error.operation_name} ({code}); look at the server's log and disk, then run again")


def _client() -> Any:
    """boto3's client. Host names of own endpoints have no `bucket.` in front: they are addressed by path."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    attempts = {} if "AWS_MAX_ATTEMPTS" in os.environ else {"total_max_attempts": ATTEMPTS}
    config = Config(
        retries={"mode": "standard", **attempts},
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        s3={"addressing_style": "path"} if endpoint else {},
    )
    try:
        return boto3.session.Session().client("s3", config=config)  # of its own: the default session is shared and keeps credentials
    except (BotoCoreError, ValueError) as error:  # an unknown profile, an endpoint that is no address
        raise UserError(f"AWS_*: {' '.join(str(error).split())}; mend the variable or the file that says so") from None


def _may_pass(error: BaseException) -> bool:
    """Is it worth a fresh start: a broken connection or a server's own trouble, and nothing that a person must mend?"""
    if isinstance(error, ClientError):
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status >= 500 or code in ("NoSuchUpload", "InvalidPart", "RequestTimeout", "SlowDown")
    return not isinstance(error, NoCredentialsError | PartialCredentialsError | SSLError)


def _write(answer: dict[str, Any], part: Path) -> None:
    """The body into the part file, at the place that the answer names."""
    content_range = answer.get("ContentRange")
    begin = int(content_range.split()[-1].split("-")[0]) if content_range else 0
    with open(part, "r+b") as file:
        file.seek(begin)
        file.truncate()
        for block in answer["Body"].iter_chunks(BLOCK):
            file.write(block)


def _common_etags(local: Path) -> set[str]:
    """MD5 of the content, and of the MD5s of its parts, as S3 says it for an upload in parts."""
    whole, parts = hashlib.md5(usedforsecurity=False), []
    with open(local, "rb") as file:
        while block := file.read(PART):
            whole.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    return {whole.hexdigest(), f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"}
