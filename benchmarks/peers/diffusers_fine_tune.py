"""An update by a reward in PyTorch, the loop that one writes there; see `benchmarks.fine_tune`.

It lives in the environment whose interpreter ``--diffusers-python`` names, as `diffusers_pipeline`.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.peers import diffusers_pipeline


def start(python: str, specification: dict[str, Any]) -> tuple[Callable[[], Any], Any, Callable]:
    """Start the process and let it work once; as `diffusers_pipeline.start`."""
    return diffusers_pipeline.start(python, specification, module=__name__)


class Side(diffusers_pipeline.Side):
    """One contender.

    Args:
        given: the specification of `benchmarks.fine_tune`.
    """

    def update(self) -> Callable[[], Any]:
        """One update: rollout, reward, the gradients of all steps, one step of AdamW."""
        import numpy as np

        torch, given, device = self.torch, self.given, self.device
        adapters, adam, cast = self.adapters()
        predict = self._compiled(self.network)
        decode = self._compiled(self.pipe.vae.decode)
        shown = torch.tensor(given["shown"], device=device)
        names = (("null_0", "text_0"), ("null_1", "text_1"))
        texts = [torch.cat([self.arrays[name] for name in pair]) for pair in names]
        draws = {k: torch.tensor(a, device=device) for k, a in np.load(given["draws"]).items()}
        handed = list(zip(draws["x_0"], draws["noise"], strict=True))
        steps = list(zip(given["state_gain"], given["action_gain"], given["std"], strict=True))

        def noise():
            if handed:
                return handed.pop(0)
            x_0, later = (torch.randn(a.shape[1:], device=device) for a in draws.values())
            return given["start_std"] * x_0, later

        def guided(x, t):
            both = torch.cat([x, x]).to(self.dtype)
            with cast:
                found = self._ask(predict, both, t, texts)
            without, with_them = found.float().chunk(2)
            return without + given["guidance"] * (with_them - without)

        def work():
            x, later = noise()
            states, actions = [], []
            with torch.no_grad():
                for i, (state_gain, action_gain, std) in enumerate(steps):
                    states.append(x)
                    actions.append(guided(x, shown[i]))
                    x = state_gain * x + action_gain * actions[-1] + std * later[i]
                rewards = self._redness(decode, x)
            advantages = (rewards - rewards.mean()) / rewards.std(unbiased=False)
            adam.zero_grad()
            for i, (_, action_gain, std) in enumerate(steps):
                moved = action_gain / std * (guided(states[i], shown[i]) - actions[i])
                log_ratio = (moved * later[i] - moved.square() / 2).sum(dim=(1, 2, 3))
                ratio = log_ratio.exp()
                clipped = ratio.clamp(1 - given["clip"], 1 + given["clip"])
                loss = torch.maximum(-ratio * advantages, -clipped * advantages)
                (loss.mean() / len(steps)).backward()
            square = torch.stack([a.grad.square().sum() for a in adapters]).sum()
            adam.step()
            return torch.cat([x.reshape(-1), rewards, square.sqrt().reshape(1)])

        return work

    def _redness(self, decode: Callable, latents: Any) -> Any:
        """How much redder than green and blue the pictures are."""
        config = self.pipe.vae.config
        latents = latents / config.scaling_factor + (config.shift_factor or 0)
        pictures = decode(latents.to(self.dtype), return_dict=False)[0].float()
        red, green, blue = (pictures / 2 + 0.5).clamp(0, 1).mean(dim=(2, 3)).unbind(dim=1)
        return red - (green + blue) / 2


if __name__ == "__main__":
    diffusers_pipeline.main(Side)
