//! The minimal relay on monoio, one thread, io_uring with the flags it sets by itself.

use std::cell::RefCell;
use std::rc::Rc;

use engines::{BUFFER_BYTES, Setup, answer_len};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

engines::serve_by_rent!();

fn main() -> Result<(), String> {
    let setup = Rc::new(Setup::from_arguments()?);
    let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(4_096).build();
    runtime.map_err(|e| e.to_string())?.block_on(async {
        let listener = TcpListener::bind(setup.listen).map_err(|e| e.to_string())?;
        let pool = Pool::default();
        loop {
            let (client, _) = listener.accept().await.map_err(|e| e.to_string())?;
            let (setup, pool) = (Rc::clone(&setup), Rc::clone(&pool));
            monoio::spawn(async move {
                // A connection that fails ends; there is nobody to tell.
                serve(client, &setup, &pool).await.ok();
            });
        }
    })
}
