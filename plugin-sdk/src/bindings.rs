//! The interface as `wit-bindgen` sees it: one world for what a plugin imports, and one for each hook.
//!
//! A plugin exports a world as a whole, so a single world would make every plugin export every hook. With one
//! world for each hook, the `#[plugin]` macro calls the export macros of the hooks that the author wrote, and
//! the linker merges the worlds.

pub mod host {
    wit_bindgen::generate!({
        path: "wit/v0.1",
        inline: "
            package gateway:sdk;
            world host {
                import gateway:plugin/types@0.1.0;
                import gateway:plugin/context@0.1.0;
                import gateway:plugin/effects@0.1.0;
                import gateway:plugin/interests@0.1.0;
                import gateway:plugin/buckets@0.1.0;
                import gateway:plugin/key-value@0.1.0;
                import gateway:plugin/log@0.1.0;
                import gateway:plugin/environment@0.1.0;
                import gateway:plugin/http@0.1.0;
            }
        ",
        world: "gateway:sdk/host",
        generate_all,
        type_section_suffix: "-host",
        runtime_path: "::gateway_plugin_sdk::__private::rt",
    });
}

pub mod configure {
    wit_bindgen::generate!({
        path: "wit/v0.1",
        inline: "
            package gateway:sdk;
            world configure-hook { export gateway:plugin/configure@0.1.0; }
        ",
        world: "gateway:sdk/configure-hook",
        pub_export_macro: true,
        export_macro_name: "export_configure",
        default_bindings_module: "::gateway_plugin_sdk::__private::bindings::configure",
        type_section_suffix: "-configure",
        runtime_path: "::gateway_plugin_sdk::__private::rt",
    });
}

pub mod on_connect {
    wit_bindgen::generate!({
        path: "wit/v0.1",
        inline: "
            package gateway:sdk;
            world on-connect-hook { export gateway:plugin/on-connect@0.1.0; }
        ",
        world: "gateway:sdk/on-connect-hook",
        with: { "gateway:plugin/types@0.1.0": crate::bindings::host::gateway::plugin::types },
        pub_export_macro: true,
        export_macro_name: "export_on_connect",
        default_bindings_module: "::gateway_plugin_sdk::__private::bindings::on_connect",
        type_section_suffix: "-on-connect",
        runtime_path: "::gateway_plugin_sdk::__private::rt",
    });
}

pub mod on_message {
    wit_bindgen::generate!({
        path: "wit/v0.1",
        inline: "
            package gateway:sdk;
            world on-message-hook { export gateway:plugin/on-message@0.1.0; }
        ",
        world: "gateway:sdk/on-message-hook",
        with: { "gateway:plugin/types@0.1.0": crate::bindings::host::gateway::plugin::types },
        pub_export_macro: true,
        export_macro_name: "export_on_message",
        default_bindings_module: "::gateway_plugin_sdk::__private::bindings::on_message",
        type_section_suffix: "-on-message",
        runtime_path: "::gateway_plugin_sdk::__private::rt",
    });
}

pub mod on_disconnect {
    wit_bindgen::generate!({
        path: "wit/v0.1",
        inline: "
            package gateway:sdk;
            world on-disconnect-hook { export gateway:plugin/on-disconnect@0.1.0; }
        ",
        world: "gateway:sdk/on-disconnect-hook",
        pub_export_macro: true,
        export_macro_name: "export_on_disconnect",
        default_bindings_module: "::gateway_plugin_sdk::__private::bindings::on_disconnect",
        type_section_suffix: "-on-disconnect",
        runtime_path: "::gateway_plugin_sdk::__private::rt",
    });
}

pub mod on_timer {
    wit_bindgen::generate!({
        path: "wit/v0.1",
        inline: "
            package gateway:sdk;
            world on-timer-hook { export gateway:plugin/on-timer@0.1.0; }
        ",
        world: "gateway:sdk/on-timer-hook",
        pub_export_macro: true,
        export_macro_name: "export_on_timer",
        default_bindings_module: "::gateway_plugin_sdk::__private::bindings::on_timer",
        type_section_suffix: "-on-timer",
        runtime_path: "::gateway_plugin_sdk::__private::rt",
    });
}

pub mod on_deliver {
    wit_bindgen::generate!({
        path: "wit/v0.1",
        inline: "
            package gateway:sdk;
            world on-deliver-hook { export gateway:plugin/on-deliver@0.1.0; }
        ",
        world: "gateway:sdk/on-deliver-hook",
        pub_export_macro: true,
        export_macro_name: "export_on_deliver",
        default_bindings_module: "::gateway_plugin_sdk::__private::bindings::on_deliver",
        type_section_suffix: "-on-deliver",
        runtime_path: "::gateway_plugin_sdk::__private::rt",
    });
}
