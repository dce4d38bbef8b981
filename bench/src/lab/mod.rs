//! What rigs of network namespaces are made of, for the subcommands that build one: hosts, the
//! processes on them, their cores. Measures nothing.

pub(crate) mod cores;
pub(crate) mod namespace;
pub(crate) mod process;
