import torch

from course.kernels.attention.scaled_dot_product_attention import scaled_dot_product_attention


def cases(dtype):
    for batch in (1, 64):  # the views a ViT makes of its projection: few programs and many, whole blocks and a rest
        q, k, v = torch.randn(batch, 197, 3 * 768, dtype=dtype).unflatten(-1, (3, 12, 64)).permute(2, 0, 3, 1, 4)
        yield f"vit {batch}", lambda q=q, k=k, v=v: scaled_dot_product_attention(q, k, v)
    q = torch.randn(16, 1024, 64, dtype=dtype)
    yield "1,024 tokens", lambda q=q: scaled_dot_product_attention(q, q, q)  # on Hopper by its own engine
    for size, mask in (  # on Hopper by its own engine as well: each kind of mask, whole blocks of keys and a rest
        (64, torch.ones(1024, 1024, dtype=torch.bool)), (128, torch.zeros(8, 1, 1024, 1024, dtype=dtype)),
        (128, torch.ones(8, 1, 1, 1024, dtype=torch.bool)), (80, torch.zeros(1024, dtype=dtype)),
    ):
        q = torch.randn(8, 2, 1024, size, dtype=dtype)
        yield f"1,024 tokens, mask {mask.dtype} {size}", lambda q=q, m=mask: scaled_dot_product_attention(q, q, q, m)
    q, k = (torch.randn(16, n, 96, dtype=dtype) for n in (1000, 700))
    yield "1,000 tokens", lambda q=q, k=k: scaled_dot_product_attention(q, k, k, is_causal=True, scale=-1.0)
    for size in (64, 128, 256):
        q = torch.randn(8, 1024, size, dtype=dtype)
        yield f"causal {size}", lambda q=q: scaled_dot_product_attention(q, q, q, is_causal=True)
    q = torch.randn(2, 100, 72, dtype=dtype)
    yield "odd", lambda q=q: scaled_dot_product_attention(q, q, q[..., ::2], scale=-1.0)
    for size, tokens, mask in (
        (64, 197, torch.ones(8, 1, 1, 197, dtype=torch.bool)), (64, 1000, torch.ones(1000, 1000, dtype=torch.bool)),
        (64, 197, torch.zeros(197, 197, dtype=dtype)), (256, 1000, torch.zeros(1000, 1000)),
    ):
        q = torch.randn(8, 12, tokens, size, dtype=dtype)
        yield f"mask {mask.dtype} {size}", lambda q=q, mask=mask: scaled_dot_product_attention(q, q, q, mask)
    if dtype == torch.float32:
        q = torch.randn(8, 500, 64)
        yield "tf32", lambda: with_tf32(lambda: scaled_dot_product_attention(q, q, q))


def with_tf32(call):
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        call()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
