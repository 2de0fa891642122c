//! A future → its result, on the runtime that fits the command.

use std::future::Future;

use anyhow::Context;

/// For commands that ask something and end.
pub(crate) fn small<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("cannot start a runtime")?.block_on(future)
}

/// For commands that stay: supervision waits for nothing else on this machine.
pub(crate) fn long<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.context("cannot start a runtime")?;
    let result = runtime.block_on(future);
    // A blocking call that hangs must not keep us.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    result
}
