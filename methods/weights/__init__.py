"""From a file that somebody published to the tensors of a timm ViT, or a reason why not.

    kinds       what a file is, from its first bytes
    pickles     pickles without running code from them
    reading     tensors and remarks of a file or a folder
    layouts     names of other libraries, and of JAX, in timm's words
    timm_own    layouts that timm renames itself
    networks    which of the networks in a file is meant
    hints       what is said about heads, activation, norms and images, and how far it is believed
    remarks     what a file says about them beside its tensors
    configs     what config.json and the like beside a file say
    decide      heads, activation and norms: stated, known or assumed
    recipes     what is known of a pretraining and stands in no file
    fit         whether the tensors are those of this network

docs/weights.md has the table of what is read, assumed and refused.
"""
