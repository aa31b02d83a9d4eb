//! `Errors` collects everything that is wrong with settings.

use std::cell::RefCell;
use std::fmt::Display;

/// The errors in a plugin's settings, each with the path of its key.
///
/// An operator who reads all of them at once corrects the file once.
///
/// ```
/// use gateway_plugin_sdk::settings::Errors;
///
/// let errors = Errors::default();
/// errors.add("leeway", "is 301: at most 300 are accepted");
/// errors.add("keys[0].kid", "is missing");
/// assert_eq!(
///     errors.finish(()),
///     Err("2 errors: `leeway` is 301: at most 300 are accepted; `keys[0].kid` is missing".into())
/// );
/// ```
#[derive(Debug, Default)]
pub struct Errors(RefCell<Vec<String>>);

impl Errors {
    /// Adds an error: the path of a key, such as `limits[0].period`, and what is wrong with it, as the rest
    /// of the sentence.
    pub fn add(&self, path: &str, message: impl Display) {
        self.0.borrow_mut().push(format!("`{path}` {message}"));
    }

    /// The number of errors so far.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether there are no errors so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value that was read, if there are no errors.
    ///
    /// # Errors
    ///
    /// All errors in one text, in the order in which they were added, for
    /// [`Plugin::configure`](crate::Plugin::configure).
    pub fn finish<T>(self, value: T) -> Result<T, String> {
        match self.0.into_inner().as_slice() {
            [] => Ok(value),
            [one] => Err(one.clone()),
            all => Err(format!("{} errors: {}", all.len(), all.join("; "))),
        }
    }
}
