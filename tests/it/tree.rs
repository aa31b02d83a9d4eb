//! The tree itself: walls between modules, the look of sources and pages, and licences of dependencies.

mod licences;
mod selection;
mod tidy;
mod walls;
