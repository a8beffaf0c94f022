"""What the machines of an AWS cluster may do, as IAM policy documents: the head launches workers, no more."""

from typing import Any

Policy = dict[str, Any]


def trust_policy() -> Policy:
    """Only EC2 machines may take the role."""
    return _policy(
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    )


def worker_policy(bucket: str) -> Policy:
    """A worker reads and writes the bucket."""
    return _policy(*_bucket_statements(bucket))


def head_policy(*, bucket: str, account: str, region: str, cluster: str, worker_role: str) -> Policy:
    """The head reads and writes the bucket, and launches and ends machines of its own cluster.

    Args:
        bucket: name of the bucket.
        account: AWS account's number.
        region: region of the cluster.
        cluster: ``cluster_name`` of the cluster file; Ray tags every machine with it.
        worker_role: name of the only role that the head may hand to a machine.
    """
    ec2 = f"arn:aws:ec2:{region}:{account}"
    tagged = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": cluster}}
    return _policy(
        *_bucket_statements(bucket),
        {"Effect": "Allow", "Action": ["ec2:Describe*"], "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": "ec2:RunInstances",
            "Resource": f"{ec2}:instance/*",
            "Condition": {"StringEquals": {"aws:RequestTag/ray-cluster-name": cluster}},
        },
        {
            "Effect": "Allow",
            "Action": "ec2:RunInstances",
            "Resource": [
                *(f"{ec2}:{kind}/*" for kind in _LAUNCH_PARTS),
                f"arn:aws:ec2:{region}::image/*",
            ],
        },
        {
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": f"{ec2}:*/*",
            "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        },
        {
            "Effect": "Allow",
            "Action": ["ec2:TerminateInstances", "ec2:StopInstances", "ec2:StartInstances", "ec2:CreateTags"],
            "Resource": f"{ec2}:instance/*",
            "Condition": tagged,
        },
        {
            "Effect": "Allow",
            "Action": "ssm:GetParameters",
            "Resource": f"arn:aws:ssm:{region}::parameter/aws/service/deeplearning/ami/*",
        },
        {
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": f"arn:aws:iam::{account}:role/{worker_role}",
        },
    )


_LAUNCH_PARTS = (
    "volume",
    "network-interface",
    "subnet",
    "security-group",
    "key-pair",
    "spot-instances-request",
)


def _bucket_statements(bucket: str) -> tuple[dict[str, Any], ...]:
    arn = f"arn:aws:s3:::{bucket}"
    return (
        {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": arn},
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            "Resource": f"{arn}/*",
        },
    )


def _policy(*statements: dict[str, Any]) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}
