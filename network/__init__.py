"""The name under which scripts of the 2017 release import networks. Our own modules do not import it."""

from nets.network import Network, random_latents
