//! What people run by hand: the command line, the tools of plugin authors, the demo page, and the commands of
//! the READMEs and the other pages.

mod author;
mod browser;
mod cli;
mod docs;
mod first_hour;
mod mistakes;
pub(crate) mod readme;
