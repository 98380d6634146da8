//! What a caller may ask for: the models of its sight, and the aliases with a target in it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{Kind, Kinds};

use super::definition::{Alias, AliasTarget};
use super::share;
use super::table::AliasTable;
use crate::error::ApiError;
use crate::view::{Model, Sight, View};

/// What a caller may ask for at one moment.
///
/// Of a table, it shows the aliases whose names the caller may use and that have a target in the
/// view. All other aliases are as if they were not in the table.
pub(crate) struct Offer<'a, V> {
    sight: &'a Sight<V>,
    table: Option<&'a AliasTable>,
}

/// A name that a caller may ask for.
#[derive(Clone, Debug)]
pub(crate) enum Offered<'a> {
    Model(&'a Arc<Model>),
    Alias(Shown<'a>),
}

/// An alias as a caller sees it.
#[derive(Clone, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) alias: &'a Arc<Alias>,
    /// The targets of which the view has an instance.
    targets: Vec<Seen<'a>>,
    fallback: Vec<Seen<'a>>,
}

/// A target of which the view has an instance.
#[derive(Clone, Copy, Debug)]
struct Seen<'a> {
    target: &'a AliasTarget,
    model: &'a Arc<Model>,
}

/// One of the targets to which a request may go.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) target: AliasTarget,
    /// Whether the target is a fallback.
    pub(crate) falls_back: bool,
}

impl<'a, V: Deref<Target = View>> Offer<'a, V> {
    pub(crate) fn new(sight: &'a Sight<V>, table: Option<&'a AliasTable>) -> Self {
        Self { sight, table }
    }

    /// Admits a request for a route of this kind.
    ///
    /// # Errors
    ///
    /// As [`Sight::admit`].
    pub(crate) fn admit(&self, kind: Kind) -> Result<(), ApiError> {
        let opens = |table: &AliasTable| self.opens(table, kind);
        match self.table.filter(|_| !self.sight.has_all_names()) {
            Some(table) if opens(table) => Ok(()),
            Some(_) if self.sight.is_ready() => Err(ApiError::endpoint_disabled()),
            // All targets of an alias are in the view, so no alias opens a route of the whole view.
            _ => self.sight.admit(kind),
        }
    }

    /// Whether a name that the caller may use stands for a model of this kind.
    fn opens(&self, table: &AliasTable, kind: Kind) -> bool {
        let by_alias = table.iter().filter_map(|alias| self.shown(alias));
        by_alias.into_iter().any(|shown| shown.kinds().contains(kind))
            || self
                .sight
                .models()
                .any(|model| model.kinds().contains(kind) && self.alias(model.name()).is_none())
    }

    /// The alias of this name, if the caller sees it.
    pub(crate) fn alias(&self, name: &str) -> Option<Shown<'a>> {
        self.shown(self.table?.get(name)?)
    }

    /// How long ago a model has left for which this name stands: the model itself, or the target of an
    /// alias.
    pub(crate) fn left_since(&self, name: &str) -> Option<Duration> {
        let by_name = self.sight.left_since(name, name, None);
        let targets = self.possible(name);
        let by_target =
            targets.filter_map(|one| self.sight.left_since(name, one.model(), one.namespace()));
        by_target.chain(by_name).min()
    }

    /// Whether this name is that of an alias that has a target in the caller's scope, or will have one as
    /// soon as somebody serves it there.
    pub(crate) fn may_come(&self, name: &str) -> bool {
        self.possible(name).next().is_some()
    }

    /// The targets of the alias of this name, if there is one, that can exist in the caller's scope.
    fn possible(&self, name: &str) -> impl Iterator<Item = &'a AliasTarget> {
        let alias = self.table.and_then(|table| table.get(name));
        let alias = alias.filter(|alias| self.sight.may_use(alias.name()));
        let all = alias.into_iter().flat_map(|alias| alias.all());
        all.filter(|target| self.exists(target))
    }

    /// Whether a target can exist in the caller's scope.
    fn exists(&self, target: &AliasTarget) -> bool {
        target.namespace().is_none_or(|namespace| self.sight.scope().contains(namespace))
    }

    /// What the caller gets for this name. An alias wins over a model.
    pub(crate) fn get(&self, name: &str) -> Option<Offered<'a>> {
        let alias = self.alias(name).map(Offered::Alias);
        alias.or_else(|| self.sight.model(name).map(Offered::Model))
    }

    /// What the list of models has, by name.
    pub(crate) fn listed(&self) -> Vec<Offered<'a>> {
        let models = self.sight.models().map(|model| (model.name(), Offered::Model(model)));
        let Some(table) = self.table else { return models.map(|(_, model)| model).collect() };
        let mut all: BTreeMap<&str, Offered<'a>> = models.collect();
        for shown in table.iter().filter_map(|alias| self.shown(alias)) {
            if shown.alias.is_listed() {
                all.insert(shown.alias.name(), Offered::Alias(shown));
            } else {
                all.remove(shown.alias.name());
            }
        }
        all.into_values().collect()
    }

    /// An alias as the caller sees it, if it does.
    fn shown(&self, alias: &'a Arc<Alias>) -> Option<Shown<'a>> {
        if !self.sight.may_use(alias.name()) {
            return None;
        }
        let exists = |target: &&'a AliasTarget| self.exists(target);
        let seen = |target: &'a AliasTarget| {
            let model = self.sight.model_behind(alias.name(), target.model())?;
            target.is_served_by(model).then_some(Seen { target, model })
        };
        let mut fallback = alias.fallback.iter().filter(exists);
        let mut targets: Vec<_> = alias.targets.iter().filter(exists).collect();
        if targets.is_empty() {
            // For this caller the alias has no target but its fallbacks. The first takes the targets'
            // place, so that no answer tells the caller of targets elsewhere.
            targets.extend(fallback.next());
        }
        let shown = Shown {
            alias,
            targets: targets.into_iter().filter_map(seen).collect(),
            fallback: fallback.filter_map(seen).collect(),
        };
        let is_there = shown.all().next().is_some();
        is_there.then_some(shown)
    }
}

impl Shown<'_> {
    fn all(&self) -> impl Iterator<Item = &Seen<'_>> {
        self.targets.iter().chain(&self.fallback)
    }

    /// The kinds that any of its targets serves.
    pub(crate) fn kinds(&self) -> Kinds {
        self.all().fold(Kinds::NONE, |kinds, seen| kinds | seen.kinds())
    }

    /// The earliest time of creation among its targets, in unix seconds.
    pub(crate) fn created(&self) -> u64 {
        self.all().map(|seen| seen.model.created()).min().unwrap_or_default()
    }

    /// The smallest context length among its targets, or among its fallbacks if it has no other target
    /// now.
    pub(crate) fn context_length(&self) -> Option<u64> {
        let of = |seen: &[Seen<'_>]| {
            let part = |seen: &Seen<'_>| seen.model.part(seen.target.namespace()).context_length;
            seen.iter().filter_map(part).min()
        };
        of(if self.targets.is_empty() { &self.fallback } else { &self.targets })
    }

    /// The targets that serve a kind, in the order in which they get a request: the targets by their
    /// shares of the sessions, and then the fallbacks. A request without a session is one by itself.
    pub(crate) fn steps(&self, kind: Kind, session: Option<&[u8]>) -> Vec<Step> {
        let serves = |seen: &&Seen<'_>| seen.kinds().contains(kind);
        let mut targets: Vec<_> =
            self.targets.iter().filter(serves).map(|seen| seen.target).collect();
        if targets.len() > 1 {
            let session = session.map_or_else(|| fastrand::u64(..), share::session);
            share::sort(&mut targets, session, |target| target.ticket());
        }
        let fallback = self.fallback.iter().filter(serves).map(|seen| seen.target);
        let step =
            |falls_back| move |target: &AliasTarget| Step { target: target.clone(), falls_back };
        targets.into_iter().map(step(false)).chain(fallback.map(step(true))).collect()
    }
}

impl Seen<'_> {
    fn kinds(&self) -> Kinds {
        self.model.part(self.target.namespace()).kinds
    }
}
