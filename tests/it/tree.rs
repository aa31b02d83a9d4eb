//! The tree itself: walls between modules, the look of sources and pages, commands in pages, and licences of
//! dependencies.

mod commands;
mod licences;
mod selection;
mod tidy;
mod walls;
