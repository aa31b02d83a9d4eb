//! Secrets in settings: how many of their bytes count.
//!
//! A plugin that wants a secret of some length compares it with [`strength_bytes`], so that a short one does
//! not pass with padding. The gateway uses the same code.

#[doc(inline)]
pub use gateway_plugin_grammar::secret::strength_bytes;
