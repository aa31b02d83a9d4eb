//! [`Guards`] protects attributes in which a plugin keeps permissions: only that plugin may set them. Those
//! that say which token a client has are set by the plugin that admits it, and never later.

use super::failure::FailurePolicy;
use super::link::Link;
use super::verdict::{ConnectVerdict, Effect};
use crate::revocation;

/// The attributes named by `permit` of the plugins of a chain, each with the indices of these plugins.
#[derive(Debug, Default)]
pub(super) struct Guards(Box<[(Box<str>, Vec<usize>)]>);

impl Guards {
    pub(super) fn of(links: &[Link]) -> Self {
        let mut guards: Vec<(Box<str>, Vec<usize>)> = Vec::new();
        for (index, link) in links.iter().enumerate() {
            for permission in &link.interests().permissions {
                match guards.iter_mut().find(|(attribute, _)| *attribute == permission.attribute) {
                    Some((_, owners)) => owners.push(index),
                    None => guards.push((permission.attribute.clone(), vec![index])),
                }
            }
        }
        Self(guards.into())
    }

    /// Whether the plugin at this index may set an attribute.
    fn permit(&self, index: usize, attribute: &str) -> bool {
        let guard = self.0.iter().find(|(guarded, _)| **guarded == *attribute);
        guard.is_none_or(|(_, owners)| owners.contains(&index))
    }

    /// Removes attributes that a plugin must not set, from the effects of its call.
    pub(super) fn effects(&self, link: &Link, index: usize, effects: &mut Vec<Effect>, before: usize) {
        if effects.len() == before {
            return;
        }
        let (mut at, mut refused) = (0, None);
        let length = effects.len();
        effects.retain(|effect| {
            at += 1;
            match effect {
                Effect::SetAttribute { name, .. }
                    if at > before && (revocation::is_reserved(name) || !self.permit(index, name)) =>
                {
                    refused = Some(name.clone());
                    false
                }
                _ => true,
            }
        });
        if let Some(name) = refused {
            link.attributes_refused(length - effects.len(), &name);
        }
    }

    /// The same, also from the identity that it accepts.
    pub(super) fn connect(
        &self,
        link: &Link,
        index: usize,
        verdict: Result<ConnectVerdict, FailurePolicy>,
        effects: &mut Vec<Effect>,
        before: usize,
    ) -> Result<ConnectVerdict, FailurePolicy> {
        self.effects(link, index, effects, before);
        let mut verdict = verdict;
        if let Ok(ConnectVerdict::Accept(identity)) = &mut verdict {
            let length = identity.attributes.len();
            let mut refused = None;
            identity.attributes.retain(|(name, value)| {
                let permitted = match revocation::is_reserved(name) {
                    true => revocation::is_valid(name, value),
                    false => self.permit(index, name),
                };
                if !permitted {
                    refused = Some(name.clone());
                }
                permitted
            });
            if let Some(name) = refused {
                link.attributes_refused(length - identity.attributes.len(), &name);
            }
        }
        verdict
    }
}
