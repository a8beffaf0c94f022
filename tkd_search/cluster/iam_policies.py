"""IAM policy documents with the rights that the machines of an AWS cluster need."""

from typing import Any

Policy = dict[str, Any]


def trust_policy() -> Policy:
    """Return the policy that allows EC2 instances only to assume a role."""
    return _policy(
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    )


def worker_policy(bucket: str) -> Policy:
    """Return the rights of a worker: read and write the bucket."""
    return _policy(*_bucket_statements(bucket))


def head_policy(*, bucket: str, account: str, region: str, cluster: str, worker_role: str) -> Policy:
    """Return the rights of the head: read and write the bucket, launch and terminate its cluster's instances.

    Args:
        bucket: name of the bucket.
        account: number of the AWS account.
        region: region of the cluster.
        cluster: ``cluster_name`` of the cluster file; Ray tags every instance with it.
        worker_role: name of the only role that the head may assign to an instance.
    """
    ec2 = f"arn:aws:ec2:{region}:{account}"
    own_instances = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": cluster}}
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
            "Condition": own_instances,
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
