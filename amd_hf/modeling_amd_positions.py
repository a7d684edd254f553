"""Position tables of AMD models: fixed 1-D, 2-D and 3-D sine-cosine tables, and tables stored in the checkpoint.

This file imports nothing of the package: it travels with published checkpoints as remote code.
"""

import torch
import torch.nn.functional as F
from torch import nn


def sincos_position_table(num_positions: int, dim: int) -> torch.Tensor:
    """Fixed 1-D sine-cosine table of shape (num_positions, dim), float32, on the CPU.

    Position n, dimension j: angle n / 10000^(2 * (j // 2) / dim); sine for even j, cosine for odd j (VideoMAE's
    released code, which computes it in float64 too).
    """
    dimensions = torch.arange(dim, dtype=torch.float64, device="cpu") // 2 * 2 / dim
    positions = torch.arange(num_positions, dtype=torch.float64, device="cpu")
    angles = positions[:, None] / torch.pow(torch.tensor(10000.0, dtype=torch.float64, device="cpu"), dimensions)
    table = torch.where(torch.arange(dim, device="cpu") % 2 == 0, angles.sin(), angles.cos())
    return table.to(torch.float32)


def sincos_2d_position_table(rows: int, columns: int, dim: int) -> torch.Tensor:
    """Fixed 2-D sine-cosine table of shape (rows * columns, dim), float32, on the CPU, `dim` a multiple of 4.

    Four parts of dim / 4 numbers: sine and cosine of the column, then sine and cosine of the row, angle
    n / 10000^(4 * j / dim) for j = 0..dim / 4 - 1. The column comes first, as in MAE's released code.
    """
    row, column = _axes(rows, columns)
    return torch.cat([_sincos(column, dim // 2), _sincos(row, dim // 2)], dim=1).to(torch.float32)


def sincos_3d_position_table(time: int, rows: int, columns: int, dim: int) -> torch.Tensor:
    """Fixed 3-D sine-cosine table of shape (time * rows * columns, dim), float32, on the CPU, `dim` a multiple of 8.

    The first half of the numbers say when, a quarter each in which row and in which column, every part as in the 2-D
    table: all sines, then all cosines (V-JEPA's released code). Tokens that are neighbours in any of the three
    directions have similar positions, so attention finds them in far fewer steps than from the 1-D table.
    """
    frame, row, column = _axes(time, rows, columns)
    parts = [_sincos(frame, dim // 2), _sincos(row, dim // 4), _sincos(column, dim // 4)]
    return torch.cat(parts, dim=1).to(torch.float32)


def _axes(*sizes: int) -> list[torch.Tensor]:
    """Coordinates of all cells of a grid along each of its axes, each (N,), float64."""
    axes = [torch.arange(size, dtype=torch.float64, device="cpu") for size in sizes]
    return [axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")]


def _sincos(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """(N,) to (N, dim), float64: the sines of n / 10000^(2 * j / dim) for j = 0..dim / 2 - 1, then the cosines."""
    rates = torch.arange(dim // 2, dtype=torch.float64, device="cpu") / (dim // 2)
    rates = 1 / torch.pow(torch.tensor(10000.0, dtype=torch.float64, device="cpu"), rates)
    angles = positions[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def interpolate_position_table(
    table: torch.Tensor, grid: tuple[int, int, int], new_grid: tuple[int, int, int]
) -> torch.Tensor:
    """Stretches a table `(N, D)` of a grid (time, rows, columns) to another: bicubic in space, then linear in time."""
    time, rows, columns = new_grid
    table = table.view(*grid, -1).permute(0, 3, 1, 2)  # (time, D, rows, columns)
    if grid[1:] != new_grid[1:]:
        table = F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)
    if grid[0] != time:
        over_time = table.permute(2, 3, 1, 0).flatten(0, 1)  # (rows * columns, D, time)
        over_time = F.interpolate(over_time, size=time, mode="linear", align_corners=False)
        table = over_time.unflatten(0, (rows, columns)).permute(3, 2, 0, 1)
    return table.permute(0, 2, 3, 1).flatten(0, 2)


class AMDPositionTable(nn.Module):
    """Position table `(N, D)`, added to tokens at given positions; never learned.

    Args:
        grid (`tuple[int, int, int]`): Tokens along time, rows and columns.
        dim (`int`): Width of the tokens.
        kind (`str`): `"sincos_1d"` over all tokens, `"sincos_2d"` over rows and columns, `"sincos_3d"` over
            time, rows and columns, or `"stored"`: part of the checkpoint. Computed tables are not saved.
        has_class_token (`bool`): Whether a stored table has a row of its own for a class token, `class_position`
            `(1, 1, D)`. In computed tables that row is zero.
    """

    def __init__(self, grid: tuple[int, int, int], dim: int, kind: str = "sincos_1d", has_class_token: bool = False):
        super().__init__()
        self.grid = grid
        self.kind = kind
        is_stored = kind == "stored"
        time, rows, columns = grid
        # Filled by `_init_weights`: `from_pretrained` leaves a non-persistent buffer uninitialised.
        # float32 whatever dtype the model is loaded in.
        table = torch.empty(time * rows * columns, dim, dtype=torch.float32)
        self.register_buffer("table", table, persistent=is_stored)
        class_position = torch.empty(1, 1, dim, dtype=torch.float32) if is_stored and has_class_token else None
        self.register_buffer("class_position", class_position)

    def computed_table(self) -> torch.Tensor:
        """The table of this kind, float32 `(N, D)` on the CPU; where it is stored, the 1-D one to start from."""
        num_positions, dim = self.table.shape
        if self.kind == "sincos_2d":
            return sincos_2d_position_table(*self.grid[1:], dim)
        if self.kind == "sincos_3d":
            return sincos_3d_position_table(*self.grid, dim)
        return sincos_position_table(num_positions, dim)

    def add_to_class_token(self, token: torch.Tensor) -> torch.Tensor:
        """A class token `(..., 1, D)` with its position."""
        return token if self.class_position is None else token + self.class_position.to(token.dtype)

    def forward(
        self, token_ids: torch.Tensor | None, like: torch.Tensor, table: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Positions `(B, n, D)` of `token_ids` `(B, n)`, or all `(N, D)`, in the dtype of `like`.

        `table` replaces the module's own.
        """
        table = self.table if table is None else table
        return (table if token_ids is None else table[token_ids]).to(like.dtype)
