"""S4D, a diagonal state-space layer whose step sizes and matrices do not depend on the tokens (Gu et al. 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vimzoo.ops import selective_scan

from .checks import check_choice, check_sizes, check_tokens

FORMS = ("convolution", "recurrence")


def initial_rates(init: str, states: int) -> Tensor:
    """The continuous A of S4D's initialisations, one state after another.

    Args:
        init: ``"lin"``, ``"inv"`` or ``"legs"`` for S4D-Lin, S4D-Inv and the eigenvalues of S4-LegS (arXiv:2206.11893,
            sections 3.2 and 4); ``"real"`` for S4D-Real.
        states: N; the complex initialisations return N / 2 values, one for each pair of conjugates.

    Returns:
        ``(N / 2,)`` in complex128, or ``(N,)`` in float64 for ``"real"``.
    """
    if init == "real":
        return -torch.arange(1, states + 1, dtype=torch.float64)
    n = torch.arange(states // 2, dtype=torch.float64)
    if init == "lin":
        imaginary = math.pi * n
    elif init == "inv":
        imaginary = states / math.pi * (states / (2 * n + 1) - 1)
    else:
        root = (torch.arange(states, dtype=torch.float64) + 0.5).sqrt()
        normal = root[:, None] * root
        skew = normal.triu(1) - normal.tril(-1)  # HiPPO-LegS less its part of rank 1, and less -1/2
        imaginary = torch.linalg.eigvalsh(1j * skew)[states // 2 :]
    return torch.complex(torch.full_like(imaginary, -0.5), imaginary)


class S4D(nn.Module):
    """``h' = A h + u``, ``y = C h + D u`` for every channel, with diagonal A, advanced by a step size per channel.

    Between two tokens u is held (zero-order hold). As nothing depends on the tokens, the layer is a convolution: its
    kernel ``K_t = sum_n C_n (exp(delta A_n) - 1) / A_n exp(delta A_n)^t`` is as long as the sequence. Complex states
    stand for pairs of conjugates, so the sum is twice its real part. Source: Gu, Gupta, Goel & Re 2022,
    arXiv:2206.11893, section 3.

    Args:
        dim: Channels D.
        d_state: States N per channel; even unless ``init`` is ``"real"``.
        init: Initial A: ``"lin"``, ``"inv"``, ``"legs"`` (complex) or ``"real"``; see `initial_rates`.
        dt_min, dt_max: The initial step sizes are spread between these on a logarithmic scale.
        bidirectional: Add a scan of the sequence from its end, with a C of its own.
        form: ``"convolution"`` multiplies Fourier transforms; ``"recurrence"`` runs `vimzoo.ops.selective_scan`, token
            by token. Both agree up to rounding. The convolution is the faster at every length that was measured
            (``benchmarks/s4d.py``), but takes the whole sequence at once.

    Raises:
        ValueError: a size is not positive, ``d_state`` is odd, ``init`` or ``form`` is unknown, or the step sizes are
            not ``0 < dt_min <= dt_max``.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 64,
        init: str = "lin",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        bidirectional: bool = False,
        form: str = "convolution",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, d_state=d_state)
        check_choice(("lin", "inv", "legs", "real"), init=init)
        check_choice(FORMS, form=form)
        if init != "real" and d_state % 2:
            raise ValueError(f"d_state: expected an even number with init={init!r}, got {d_state}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min: expected 0 < dt_min <= dt_max, got {dt_min!r} and dt_max={dt_max!r}")
        self.dim, self.d_state, self.init, self.form = dim, d_state, init, form
        self.dt_min, self.dt_max, self.bidirectional = dt_min, dt_max, bidirectional
        states, parts = (d_state, 1) if init == "real" else (d_state // 2, 2)
        directions = 2 if bidirectional else 1
        self.log_dt = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.log_A_real = nn.Parameter(torch.empty(dim, states, device=device, dtype=dtype))
        self.A_imag = (
            nn.Parameter(torch.empty(dim, states, device=device, dtype=dtype)) if parts == 2 else None
        )
        self.C = nn.Parameter(torch.empty(directions, dim, states, parts, device=device, dtype=dtype))
        self.D = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A as named, step sizes log-uniform, C normal with variance 1, D normal."""
        nn.init.uniform_(self.log_dt, math.log(self.dt_min), math.log(self.dt_max))
        rates = initial_rates(self.init, self.d_state)
        self.log_A_real.copy_((-rates.real).log().expand_as(self.log_A_real))
        if self.A_imag is not None:
            self.A_imag.copy_(rates.imag.expand_as(self.A_imag))
        nn.init.normal_(self.C, std=self.C.shape[-1] ** -0.5)
        nn.init.normal_(self.D)

    def _matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Step size ``(D,)``, A ``(D, S)`` and C of the step ``(K, D, S)``, all at least in float32."""
        work = torch.promote_types(self.C.dtype, torch.float32)
        delta, real, C = self.log_dt.to(work).exp(), -self.log_A_real.to(work).exp(), self.C.to(work)
        if self.A_imag is None:
            A, C = real, C.squeeze(-1)
        else:
            A, C = torch.complex(real, self.A_imag.to(work)), torch.view_as_complex(C.contiguous())
        step = delta[:, None] * A
        held = torch.expm1(step) if not step.is_complex() else torch.exp(step) - 1
        return delta, A, C * held / A

    def kernel(self, length: int) -> Tensor:
        """The convolution's kernel ``(K, D, length)`` for each direction, in float32 (float64 for float64).

        Powers of ``exp(delta A)`` are products of a coarse and a fine one, so nothing of size D x N x length is made.
        """
        delta, A, C = self._matrices()
        step = delta[:, None] * A  # (D, S)
        fine = max(1, math.isqrt(length))
        coarse = -(-length // fine)
        exponent = torch.arange(max(fine, coarse), device=step.device, dtype=delta.dtype)
        low = torch.exp(step[:, :, None] * exponent[:fine])
        high = torch.exp(step[:, None, :] * (exponent[:coarse, None] * fine))
        weighted = C[:, :, None, :] * high
        if weighted.is_complex():  # twice the real part of the product
            weighted = 2 * torch.cat([weighted.real, -weighted.imag], -1)
            low = torch.cat([low.real, low.imag], 1)
        return (weighted @ low).flatten(-2)[..., :length]

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, L, D) -> (B, L, D)``.

        Raises:
            ValueError: ``x`` is not such a sequence.
        """
        x = check_tokens(x, self.dim)
        y = self._recurrence(x) if self.form == "recurrence" else self._convolution(x)
        return y.to(x.dtype) + x * self.D.to(x.dtype)

    def _recurrence(self, x: Tensor) -> Tensor:
        delta, A, C = self._matrices()
        u = x.mT.to(delta.dtype)
        steps = delta[:, None].expand_as(u)
        B = torch.ones_like(A) / delta[:, None]  # the scan multiplies by the step size

        def scan(u: Tensor, C: Tensor) -> Tensor:
            return selective_scan(u, steps, A, B, C)  # type: ignore[return-value]

        y = scan(u, C[0])
        if self.bidirectional:
            y = y + scan(u.flip(-1), C[1]).flip(-1)
        return y.mT

    def _convolution(self, x: Tensor) -> Tensor:
        kernel = self.kernel(x.shape[1])
        length, size = x.shape[1], 2 * x.shape[1]
        spectrum = torch.fft.rfft(kernel, n=size)
        response = spectrum[0]
        if self.bidirectional:
            response = response + spectrum[1].conj()  # the conjugate turns a real kernel round
        u = x.mT.to(kernel.dtype)
        return torch.fft.irfft(torch.fft.rfft(u, n=size) * response, n=size)[..., :length].mT

    def extra_repr(self) -> str:
        options = f"init={self.init!r}, bidirectional={self.bidirectional}, form={self.form!r}"
        return f"{self.dim}, d_state={self.d_state}, {options}"
