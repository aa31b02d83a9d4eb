//! Implements the interface `http`. Its `fetch` is the only import that waits. Instances that serve messages
//! have it too, but there it returns an error.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Linker;

use super::bindings::gateway::plugin::{http, types};
use super::call::{Hook, State};
use super::capabilities::Capabilities;
use super::host::{code, error, not_in_this_hook};
use crate::egress::{Error, FetchRefused, Url, Wanted};

const INTERFACE: &str = "gateway:plugin/http@0.1.0";
/// Beginning of the interface name in a component's imports.
pub(super) const ANY_VERSION: &str = "gateway:plugin/http@";

type Answer = Result<http::Response, types::Error>;

/// Links instances that must not wait.
pub(super) fn refuse(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(INTERFACE)?;
    interface.func_wrap("ask", |mut store, (url,): (String,)| Ok((ask(store.data_mut(), &url),)))?;
    interface.func_wrap("fetch", |store, (request,): (http::Request,)| {
        let state: &State = store.data();
        // Without a granted origin there are no instances that may wait, so this one is called instead.
        let refused = match Url::parse(&request.url) {
            Ok(url) if state.event.hook == Hook::Connect && !state.capabilities.can_fetch() => {
                explain(&FetchRefused::NotGranted(url.origin().clone()))
            }
            _ => not_in_this_hook(),
        };
        Ok((Answer::Err(refused),))
    })
}

/// Links instances that may wait.
pub(super) fn offer(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(INTERFACE)?;
    interface.func_wrap("ask", |mut store, (url,): (String,)| Ok((ask(store.data_mut(), &url),)))?;
    interface.func_wrap_async("fetch", |mut store, (request,): (http::Request,)| {
        let state = State::of_host_call(store.data_mut());
        let (capabilities, hook) = (state.capabilities.clone(), state.event.hook);
        Box::new(async move {
            if hook != Hook::Connect {
                return Ok((Err(not_in_this_hook()),));
            }
            Ok((fetch(&capabilities, request).await,))
        })
    })
}

fn ask(state: &mut State, url: &str) -> Result<(), types::Error> {
    state.only_in_configure()?;
    let url = Url::parse(url)
        .map_err(|accepted| error(code::INVALID_REQUEST, format!("is no URL; expected {accepted}")))?;
    state.asked.request_http(url.origin().to_string().into());
    Ok(())
}

async fn fetch(capabilities: &Arc<Capabilities>, request: http::Request) -> Answer {
    let milliseconds = |number: u64| (number > 0).then(|| Duration::from_millis(number));
    let wanted = Wanted {
        method: request.method,
        url: request.url,
        headers: request.headers,
        body: request.body.into(),
        deadline: milliseconds(request.deadline.into()),
        cache: milliseconds(request.cache),
    };
    let (response, cached) = capabilities.fetch(&wanted).await.map_err(|refused| explain(&refused))?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(http::Response {
        status: response.status,
        headers: response.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: response.body.to_vec(),
        cached,
    })
}

fn explain(refused: &FetchRefused) -> types::Error {
    let code = match refused {
        FetchRefused::NotGranted(_) => code::NOT_GRANTED,
        FetchRefused::Busy | FetchRefused::Error(Error::Busy) => code::BUSY,
        FetchRefused::Error(Error::Invalid(_)) => code::INVALID_REQUEST,
        FetchRefused::Error(Error::Refused(_)) => code::REFUSED_ADDRESS,
        FetchRefused::Error(Error::Timeout(_)) => code::TIMEOUT,
        FetchRefused::Error(Error::TooLarge(_)) => code::ANSWER_TOO_LARGE,
        FetchRefused::Error(Error::Failed(_) | Error::Unreachable(_)) => code::REQUEST_FAILED,
    };
    error(code, refused.to_string())
}
