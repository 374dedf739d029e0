"""The name under which scripts of the 2017 release find networks; the rooms do not use it."""

from nets.network import Network, random_latents
