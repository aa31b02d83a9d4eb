//! The `[breaker]` table.

use toml::Table;

use super::Reader;
use crate::plugin::breaker::BreakerSettings;

impl Reader {
    pub(super) fn breaker(&mut self, mut table: Table) -> BreakerSettings {
        let default = BreakerSettings::default();
        let breaker = BreakerSettings {
            failures: self.number_in("breaker", &mut table, "failures", default.failures, 0..=1000),
            within: self.duration_in("breaker", &mut table, "within", default.within, 100..=600_000),
            open_for: self.duration_in("breaker", &mut table, "open_for", default.open_for, 10..=600_000),
        };
        self.nothing_left("breaker.", &table, "failures, within, open_for");
        breaker
    }
}
