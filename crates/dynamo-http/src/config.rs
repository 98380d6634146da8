//! The one style of configuration: a struct with private fields, defaults, and `with_…` methods.

/// Declares a configuration.
///
/// Each setting is told once: its documentation, its name, the name of the method that sets it, its
/// type and its default. The struct can get further settings without breaking its users.
macro_rules! config {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $(
                $(#[cfg($when:meta)])?
                $(#[doc = $doc:literal])*
                $setting:ident, $with:ident: $type:ty = $default:expr;
            )*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $($(#[cfg($when)])? pub(crate) $setting: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($(#[cfg($when)])? $setting: $default,)* }
            }
        }

        impl $name {
            /// Every setting at its default.
            pub fn new() -> Self {
                Self::default()
            }

            $(
                $(#[cfg($when)])?
                $(#[doc = $doc])*
                #[must_use]
                pub fn $with(mut self, $setting: $type) -> Self {
                    self.$setting = $setting;
                    self
                }

                $(#[cfg($when)])?
                #[doc = concat!("The value that [`", stringify!($with), "`](Self::", stringify!($with), ") has set, or the default.")]
                pub fn $setting(&self) -> &$type {
                    &self.$setting
                }
            )*
        }
    };
}

pub(crate) use config;
