"""The interface of the 2018 release's `tfutil` on Theano: networks as objects, and evaluating and training them.

A script that keeps to it works after ``import tfutil_shim as tfutil``; what it did with TensorFlow itself has to be
written for Theano. The module knows nothing of images or GANs. All public names of `tfutil` and what they mean here:

========================================== ============================================================================
`run`                                      evaluate expressions and carry out updates; compiles once per fetches
`is_tf_expression`, `shape_to_list`,       small expressions, on Theano expressions or arrays
`flatten`, `log2`, `exp2`, `lerp`,
`lerp_clip`
`absolute_name_scope`                      does nothing: there are no name scopes
`init_tf`                                  choose engine and Theano flags: `theano_env.configure`
`init_uninited_vars`                       does nothing: shared variables always hold a value
`set_vars`                                 assign {shared variable: array}
`import_module`, `find_obj_in_module`,     ``'module.name'`` -> module and rest, object; call it
`import_obj`, `call_func_by_name`
`autosummary`, `finalize_autosummaries`,   averages of values between two saves, written as JSON lines or to a
`save_summaries`                           TensorBoard `SummaryWriter`
`create_session`                           an error: there are no sessions
`network_import_handlers`                  an error: old pickles are read by `load_pkl`
------------------------------------------ ----------------------------------------------------------------------------
`Optimizer`                                gradients and updates of one network, see `nets.tf_training`
`.register_gradients`, `.apply_updates`    updates are a dict for `run` or `theano.function`
`.reset_optimizer_state`                   moments and step count anew
`.get_loss_scaling_var`,                   loss scaling; one exponent for all devices
`.apply_loss_scaling`,
`.undo_loss_scaling`
------------------------------------------ ----------------------------------------------------------------------------
`Network`                                  a Lasagne graph made by a build function; see the class
`.name`, `.scope`, `.static_kwargs`,       attributes
`.num_inputs`, `.num_outputs`,
`.input_shapes`, `.output_shapes`,
`.input_shape`, `.output_shape`,
`.input_names`, `.output_names`,
`.input_templates`, `.output_templates`,
`.vars`, `.trainables`
`.get_output_for`, `.run`                  symbolic outputs; evaluation on arrays
`.get_var_localname`, `.find_var`,         one variable, by local name or ``'NETWORK/LOCAL NAME'``
`.get_var`, `.set_var`
`.reset_vars`, `.reset_trainables`,        all variables
`.copy_vars_from`,
`.copy_trainables_from`
`.clone`, `.convert`, pickling             copies
`.setup_as_moving_average_of`              updates
`.list_layers`, `.print_layers`            the layers
`.setup_weight_histograms`                 histograms at every `save_summaries` to a TensorBoard `SummaryWriter`
========================================== ============================================================================

Of our own: `get_autosummaries`, `Autosummaries`, `Updates`, and what the docstrings of `Network` and `Optimizer`
mention.

There are no sessions: variables are Theano shared variables, which always hold a value. What TensorFlow calls an update
op is here `Updates`, a dict {shared variable: new value} as `theano.function` takes in `updates`; any other dict is a
structure of expressions that `run` evaluates.
"""

from common.objects import call_func_by_name, find_obj_in_module, import_module, import_obj
from nets.network import Network
from nets.tf_functions import (
    Updates,
    absolute_name_scope,
    exp2,
    flatten,
    init_tf,
    init_uninited_vars,
    is_tf_expression,
    lerp,
    lerp_clip,
    log2,
    run,
    set_vars,
    shape_to_list,
)
from nets.tf_training import (
    Autosummaries,
    Optimizer,
    autosummary,
    finalize_autosummaries,
    get_autosummaries,
    histogram,
    save_summaries,
)

WITHOUT_MEANING = {     # Names of `tfutil` without a counterpart here.
    'create_session': 'there are no sessions: leave the call out',
    'network_import_handlers': 'pickles of the 2017 and 2018 releases are read by misc.load_pkl',
    'tf': 'there is no TensorFlow: expressions are those of theano.tensor, evaluated by tfutil.run',
    'get_default_session': 'there are no sessions: write tfutil.run(expressions, feeds)',
    'get_collection': 'there are no collections: net.vars and net.trainables have the variables of a network',
}


def __getattr__(name):
    if name in WITHOUT_MEANING:
        raise AttributeError(f'tfutil_shim.{name}: {WITHOUT_MEANING[name]}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
