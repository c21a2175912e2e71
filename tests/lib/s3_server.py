"""A private S3-compatible store for tests (moto): a free port, objects in memory, nothing left
behind.  It checks every request's signature and rights.

    with S3Server() as s3:
        s3.url("prefix")   # s3://vicinal-tests/prefix?endpoint=http://127.0.0.1:PORT
        s3.environment     # the credentials, as a service wants them

Its packages are fetched by `make deps-test` (tools/s3).  As a program, inside their environment, it
prints one line, "ENDPOINT KEY SECRET", and serves until the end of its input.
"""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PYTHON = pathlib.Path(os.environ.get("VICINAL_S3_PYTHON", ROOT / "build/s3/bin/python"))
BUCKET = "vicinal-tests"
POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'
UNCHECKED = 4  # the calls below, which make the user that later ones have to sign as


class S3Server:
    def __init__(self):
        self.process = None

    def start(self):
        settings = {"AWS_ACCESS_KEY_ID": "setup", "AWS_SECRET_ACCESS_KEY": "setup",
                    "AWS_DEFAULT_REGION": "us-east-1", "INITIAL_NO_AUTH_ACTION_COUNT": str(UNCHECKED)}
        self.process = subprocess.Popen([PYTHON, __file__], stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        env={**os.environ, **settings})
        words = self.process.stdout.readline().split()
        if len(words) != 3:
            self.stop()
            raise AssertionError("the S3 server has not started")
        self.endpoint = words[0]
        self.environment = {"AWS_ACCESS_KEY_ID": words[1], "AWS_SECRET_ACCESS_KEY": words[2]}
        return self

    def url(self, prefix):
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}"

    def stop(self):
        if self.process is None:
            return
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()
        self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def serve():
    import boto3
    from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://%s:%d" % server.get_host_and_port()
    iam = boto3.client("iam", endpoint_url=endpoint)
    iam.create_user(UserName="tests")
    key = iam.create_access_key(UserName="tests")["AccessKey"]
    iam.put_user_policy(UserName="tests", PolicyName="all", PolicyDocument=POLICY)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    print(endpoint, key["AccessKeyId"], key["SecretAccessKey"], flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    serve()
