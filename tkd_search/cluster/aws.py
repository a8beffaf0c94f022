"""Makes what ``clusters/aws.yaml`` refers to: ``python -m tkd_search.cluster.aws``, at any time again.

Bucket (private, encrypted), key pair, narrow roles for head and workers, and a security group that lets in
the caller's address alone. Ray's own bootstrap would open SSH to the world and grant all of EC2 and S3.
"""

import ipaddress
import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from tkd_search.cluster.cluster_file import PLACEHOLDER, ClusterFile, read_cluster_file
from tkd_search.cluster.iam_policies import head_policy, trust_policy, worker_policy
from tkd_search.errors import UserError

_GROUP_PLACEHOLDER = "sg-CHANGE-ME"
_EXISTS = {"EntityAlreadyExists", "BucketAlreadyOwnedByYou"}


def prepare(path: Path, source: str, say: Callable[[str], None] = print) -> str:
    """Make or complete everything and write the security group's id into the cluster file.

    Args:
        path: a cluster file with provider ``aws``.
        source: who may reach SSH, as a CIDR such as ``203.0.113.7/32``.
        say: receives a line for each thing that is ready.

    Returns:
        Id of the security group.

    Raises:
        UserError: where the file is not for AWS, its lines have not been changed, or the source is too wide.
    """
    file = read_cluster_file(path)
    bucket = _check(file, source)
    import boto3

    session = boto3.Session(region_name=file.region)
    account = str(session.client("sts").get_caller_identity()["Account"])
    _bucket(session.client("s3"), bucket, file.region)
    say(f"bucket          {bucket}: private, encrypted")
    worker, head = f"{file.name}-worker", f"{file.name}-head"
    iam = session.client("iam")
    _role(iam, worker, worker_policy(bucket))
    _role(
        iam,
        head,
        head_policy(
            bucket=bucket, account=account, region=file.region, cluster=file.name, worker_role=worker
        ),
    )
    say(f"roles           {head}, {worker}")
    ec2 = session.client("ec2")
    _key_pair(ec2, file)
    say(f"key             {file.ssh_key}")
    group = _security_group(ec2, file.name, source)
    say(f"security group  {group}: SSH from {source} alone")
    text = path.read_text(encoding="utf-8")
    if _GROUP_PLACEHOLDER in text:
        path.write_text(text.replace(f'"{_GROUP_PLACEHOLDER}"', f'"{group}"'), encoding="utf-8")
        say(f"written         {path}: SecurityGroupIds")
    elif group not in text:
        say(f"mind            {path} names another security group than {group}")
    return group


def _check(file: ClusterFile, source: str) -> str:
    if file.provider != "aws":
        raise UserError(str(file.path), f"provider {file.provider!r}", "provider aws")
    wide = ipaddress.ip_network(source, strict=False)
    if wide.prefixlen < (8 if wide.version == 4 else 32):
        raise UserError("--source", source, "an address range of yours, such as 203.0.113.7/32")
    open_lines = [(n, line) for n, line in file.placeholders if _GROUP_PLACEHOLDER not in line]
    if open_lines:
        number, line = open_lines[0]
        raise UserError(
            f"{file.path}:{number}", f"{PLACEHOLDER} in {line.strip()!r}", "your own value; change it first"
        )
    parts = urlsplit(file.storage)
    if parts.scheme != "s3" or not parts.netloc:
        raise UserError(f"{file.path}: metadata.storage", repr(file.storage), "s3://bucket/folder")
    return parts.netloc


def _bucket(s3: Any, bucket: str, region: str) -> None:
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    _unless_there(s3, lambda: s3.create_bucket(Bucket=bucket, **where))
    blocked = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(blocked, True))
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})


def _role(iam: Any, name: str, policy: dict[str, Any]) -> None:
    trust = json.dumps(trust_policy())
    _unless_there(iam, lambda: iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust))
    iam.put_role_policy(RoleName=name, PolicyName="tkd-search", PolicyDocument=json.dumps(policy))
    _unless_there(iam, lambda: iam.create_instance_profile(InstanceProfileName=name))
    profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if not profile["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def _key_pair(ec2: Any, file: ClusterFile) -> None:
    if file.ssh_key is None:
        raise UserError(f"{file.path}: auth.ssh_private_key", "nothing", "path of the key to make or use")
    name = file.ssh_key.stem
    known = ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}])["KeyPairs"]
    if known and file.ssh_key.exists():
        return
    if known or file.ssh_key.exists():
        there, missing = ("AWS", file.ssh_key) if known else (file.ssh_key, "AWS")
        raise UserError(
            f"{file.path}: auth.ssh_private_key",
            f"key {name} in {there} but not in {missing}",
            "both or neither",
            f"delete the one that is left (aws ec2 delete-key-pair --key-name {name}), or name another key",
        )
    made = ec2.create_key_pair(KeyName=name, KeyType="ed25519")
    file.ssh_key.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file.ssh_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as key:
        key.write(made["KeyMaterial"])


def _security_group(ec2: Any, name: str, source: str) -> str:
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise UserError("AWS", "no default VPC in this region", "one: aws ec2 create-default-vpc")
    vpc = vpcs[0]["VpcId"]
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    found = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    if found:
        group, rules = found[0]["GroupId"], found[0]["IpPermissions"]
        if rules:  # whoever was let in before is not any more: addresses of laptops change
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)
    else:
        made = ec2.create_security_group(GroupName=name, VpcId=vpc, Description="tkd_search cluster")
        group = made["GroupId"]
    family = "IpRanges" if ipaddress.ip_network(source, strict=False).version == 4 else "Ipv6Ranges"
    cidr = "CidrIp" if family == "IpRanges" else "CidrIpv6"
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]},
            {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, family: [{cidr: source}]},
        ],
    )
    return str(group)


def _unless_there(client: Any, create: Callable[[], Any]) -> None:
    try:
        create()
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in _EXISTS:
            raise


def _own_address() -> str:
    try:
        with urllib.request.urlopen("https://checkip.amazonaws.com", timeout=10) as answer:
            return f"{answer.read().decode().strip()}/32"
    except OSError as error:
        raise UserError(
            "--source", f"your address could not be found out ({error})", "a CIDR such as 203.0.113.7/32"
        ) from error


@click.command()
@click.argument("cluster_file", type=click.Path(path_type=Path), default="clusters/aws.yaml")
@click.option("--source", help="Who may reach SSH, as a CIDR; default: the address you come from.")
def main(cluster_file: Path, source: str | None) -> None:
    """Make bucket, key, roles and security group for a cluster file of AWS."""
    try:
        prepare(cluster_file, source or _own_address(), click.echo)
    except (UserError, ValueError) as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from error
    click.echo(f"next: ray up {cluster_file}")


if __name__ == "__main__":
    main()
