"""``python -m tkd_search.cluster.aws``: creates the AWS objects that ``clusters/aws.yaml`` refers to.

Creates a private, encrypted bucket, a key pair, restricted roles for head and workers, and a security group
that allows SSH from the caller's address only. It can be run again at any time. Without these objects, Ray
would create a security group that allows SSH from every address, and a role with all rights on EC2 and S3.
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
_EXISTS_CODES = {"EntityAlreadyExists", "BucketAlreadyOwnedByYou"}


def prepare(path: Path, source: str, print_line: Callable[[str], None] = print) -> str:
    """Create all objects that are missing and write the security group's id into the cluster file.

    Args:
        path: a cluster file with provider ``aws``.
        source: addresses that may connect by SSH, as a CIDR such as ``203.0.113.7/32``.
        print_line: receives one line for each object.

    Returns:
        Id of the security group.

    Raises:
        UserError: the file is not for AWS, contains placeholders, or the range of addresses is too large.
    """
    file = read_cluster_file(path)
    bucket = _check(file, source)
    import boto3

    session = boto3.Session(region_name=file.region)
    account = str(session.client("sts").get_caller_identity()["Account"])
    _bucket(session.client("s3"), bucket, file.region)
    print_line(f"bucket          {bucket}: private, encrypted")
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
    print_line(f"roles           {head}, {worker}")
    ec2 = session.client("ec2")
    _key_pair(ec2, file)
    print_line(f"key             {file.ssh_key}")
    group = _security_group(ec2, file.name, source)
    print_line(f"security group  {group}: SSH from {source} alone")
    text = path.read_text(encoding="utf-8")
    if _GROUP_PLACEHOLDER in text:
        path.write_text(text.replace(f'"{_GROUP_PLACEHOLDER}"', f'"{group}"'), encoding="utf-8")
        print_line(f"written         {path}: SecurityGroupIds")
    elif group not in text:
        print_line(f"warning         {path} names another security group than {group}")
    return group


def _check(file: ClusterFile, source: str) -> str:
    if file.provider != "aws":
        raise UserError(str(file.path), f"provider {file.provider!r}", "provider aws")
    network, min_prefix = ipaddress.ip_network(source, strict=False), {4: 8, 6: 32}
    if network.prefixlen < min_prefix[network.version]:
        raise UserError(
            "--source", source, "your address range, such as 203.0.113.7/32, no larger than /8 (IPv6: /32)"
        )
    unchanged = [(n, line) for n, line in file.placeholders if _GROUP_PLACEHOLDER not in line]
    if unchanged:
        number, line = unchanged[0]
        raise UserError(
            f"{file.path}:{number}", f"{PLACEHOLDER} in {line.strip()!r}", "your own value",
            "change this line, then run the command again",
        )  # fmt: skip
    parts = urlsplit(file.storage)
    if parts.scheme != "s3" or not parts.netloc:
        raise UserError(f"{file.path}: metadata.storage", repr(file.storage), "s3://bucket/folder")
    return parts.netloc


def _bucket(s3: Any, bucket: str, region: str) -> None:
    location = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    _create_if_missing(s3, lambda: s3.create_bucket(Bucket=bucket, **location))
    blocked = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(blocked, True))
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})


def _role(iam: Any, name: str, policy: dict[str, Any]) -> None:
    trust = json.dumps(trust_policy())
    _create_if_missing(iam, lambda: iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust))
    iam.put_role_policy(RoleName=name, PolicyName="tkd-search", PolicyDocument=json.dumps(policy))
    _create_if_missing(iam, lambda: iam.create_instance_profile(InstanceProfileName=name))
    profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if not profile["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def _key_pair(ec2: Any, file: ClusterFile) -> None:
    if file.ssh_key is None:
        raise UserError(f"{file.path}: auth.ssh_private_key", "nothing", "path of the key to create or use")
    name = file.ssh_key.stem
    known = ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}])["KeyPairs"]
    if known and file.ssh_key.exists():
        return
    if known or file.ssh_key.exists():
        present, missing = ("AWS", file.ssh_key) if known else (file.ssh_key, "AWS")
        raise UserError(
            f"{file.path}: auth.ssh_private_key",
            f"key {name} in {present} but not in {missing}",
            "both or neither",
            f"delete the one that exists (aws ec2 delete-key-pair --key-name {name}), or name another key",
        )
    made = ec2.create_key_pair(KeyName=name, KeyType="ed25519")
    file.ssh_key.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file.ssh_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as key:
        key.write(made["KeyMaterial"])


def _security_group(ec2: Any, name: str, source: str) -> str:
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise UserError("AWS", "no default VPC in this region", "one", "aws ec2 create-default-vpc")
    vpc = vpcs[0]["VpcId"]
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    found = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    if found:
        group, rules = found[0]["GroupId"], found[0]["IpPermissions"]
        if rules:  # The address of a laptop changes; earlier ones must not keep access.
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


def _create_if_missing(client: Any, create: Callable[[], Any]) -> None:
    try:
        create()
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in _EXISTS_CODES:
            raise


def _own_address() -> str:
    try:
        with urllib.request.urlopen("https://checkip.amazonaws.com", timeout=10) as answer:
            return f"{answer.read().decode().strip()}/32"
    except OSError as error:
        raise UserError(
            "--source", f"no answer about your own address ({error})", "a CIDR such as 203.0.113.7/32"
        ) from error


@click.command()
@click.argument("cluster_file", type=click.Path(path_type=Path), default="clusters/aws.yaml")
@click.option("--source", help="Addresses that may connect by SSH, as a CIDR; default: your public address.")
def main(cluster_file: Path, source: str | None) -> None:
    """Create bucket, key, roles and security group for an AWS cluster file."""
    try:
        prepare(cluster_file, source or _own_address(), click.echo)
    except (UserError, ValueError) as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from error
    click.echo(f"next: ray up {cluster_file}")


if __name__ == "__main__":
    main()
