"""The interface of the 2018 release's `tfutil` on Theano: networks as objects, their evaluation and training.

Scripts that use only this interface work after ``import tfutil_shim as tfutil``; direct uses of TensorFlow must be
rewritten for Theano. The module knows nothing of images or GANs. All public names of `tfutil` and their meaning here:

========================================== ============================================================================
`run`                                      evaluate expressions and carry out updates; compiles once per fetches
`is_tf_expression`, `shape_to_list`,       small functions of Theano expressions or arrays
`flatten`, `log2`, `exp2`, `lerp`,
`lerp_clip`
`absolute_name_scope`                      does nothing: there are no name scopes
`init_tf`                                  configure engine and Theano flags: `theano_env.configure`
`init_uninited_vars`                       does nothing: shared variables always hold a value
`set_vars`                                 assign {shared variable: array}
`import_module`, `find_obj_in_module`,     find modules and objects by dotted names, and call them
`import_obj`, `call_func_by_name`
`autosummary`, `finalize_autosummaries`,   averages of values between two saves, written as lines of JSON or to a
`save_summaries`                           TensorBoard `SummaryWriter`
`create_session`                           an error: there are no sessions
`network_import_handlers`                  an error: `load_pkl` reads old pickles
------------------------------------------ ----------------------------------------------------------------------------
`Optimizer`                                gradients and updates of one network, see `nets.tf_training`
`.register_gradients`, `.apply_updates`    updates are a dict for `run` or `theano.function`
`.reset_optimizer_state`                   reset moments and step count
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
`.list_layers`, `.print_layers`            tables of the layers
`.setup_weight_histograms`                 histograms at every `save_summaries` to a TensorBoard `SummaryWriter`
========================================== ============================================================================

Additional names: `get_autosummaries`, `Autosummaries`, `Updates`, and those in the docstrings of `Network` and
`Optimizer`.

There are no sessions: variables are Theano shared variables, which always hold a value. `Updates`, a dict {shared
variable: new value} like the argument `updates` of `theano.function`, replaces TensorFlow's update ops; `run` treats
any other dict as a structure of expressions.
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

WITHOUT_MEANING = {     # Names of `tfutil` that have no counterpart here.
    'create_session': 'there are no sessions: leave the call out',
    'network_import_handlers': 'misc.load_pkl reads pickles of the 2017 and 2018 releases',
    'tf': 'there is no TensorFlow: use expressions of theano.tensor, and tfutil.run to evaluate them',
    'get_default_session': 'there are no sessions: write tfutil.run(expressions, feeds)',
    'get_collection': 'there are no collections: net.vars and net.trainables have the variables of a network',
}


def __getattr__(name):
    if name in WITHOUT_MEANING:
        raise AttributeError(f'tfutil_shim.{name}: {WITHOUT_MEANING[name]}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
