"""Find out why PyTorch cannot use a GPU of this machine, and name the cure."""

import re

# {major version of CUDA: the oldest NVIDIA driver that supports it}
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
OTHER_BUILD = 'install PyTorch for another version of CUDA, see pytorch.org/get-started'


def why_none() -> str:
    """Why PyTorch finds no CUDA GPU, and the cure; '' if it finds one."""
    import torch
    if torch.cuda.is_available():
        return ''
    if torch.version.cuda is None:
        return 'this PyTorch is a build without CUDA'
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        reason = str(error)
    else:
        reason = 'No CUDA GPUs are available'
    build = f'this PyTorch is a build for CUDA {torch.version.cuda}'
    if 'too old' in reason:
        version = re.search(r'found version (\d+)', reason)
        found = '' if version is None else \
            f', which has CUDA {int(version[1]) // 1000}.{int(version[1]) % 1000 // 10} at most'
        oldest = OLDEST_DRIVER.get(int(torch.version.cuda.partition('.')[0]))
        newer = 'a newer one' if oldest is None else f'{oldest} or newer'
        return f'{build}, too new for the NVIDIA driver{found}: install a driver of version {newer}, or {OTHER_BUILD}'
    return f'{build}, which reports: {re.split(r"[.:;] |[.:;]?$", reason.strip().splitlines()[0])[0]}'


def missing_kernels(device: str) -> str:
    """Why this PyTorch cannot run on the GPU `device` ('cuda:N'), and the cure; '' if it can.

    Kernels (sm_*) run on GPUs of the same major compute capability and an equal or higher minor one. Intermediate code
    (compute_*) is compiled at run time for any GPU of an equal or higher capability.
    """
    import torch
    capability = torch.cuda.get_device_capability(device)
    names = torch.cuda.get_arch_list()
    for kind, major, minor in re.findall(r'\b(sm|compute)_(\d+)(\d)\b', ' '.join(names)):
        of_kernels = int(major), int(minor)
        if of_kernels <= capability and (kind == 'compute' or of_kernels[0] == capability[0]):
            return ''
    if not names:
        return ''       # This build has no list of architectures.
    return f'{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}, and this ' \
        f'PyTorch has kernels for {", ".join(names)} only: {OTHER_BUILD}'
