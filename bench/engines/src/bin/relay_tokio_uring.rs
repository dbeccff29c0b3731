//! The minimal relay on tokio-uring, one thread.

use std::cell::RefCell;
use std::rc::Rc;

use engines::{BUFFER_BYTES, Setup, answer_len};
use tokio_uring::net::{TcpListener, TcpStream};

engines::serve_by_rent!();

fn main() -> Result<(), String> {
    let setup = Rc::new(Setup::from_arguments()?);
    tokio_uring::builder().entries(4_096).start(async {
        let listener = TcpListener::bind(setup.listen).map_err(|e| e.to_string())?;
        let pool = Pool::default();
        loop {
            let (client, _) = listener.accept().await.map_err(|e| e.to_string())?;
            let (setup, pool) = (Rc::clone(&setup), Rc::clone(&pool));
            tokio_uring::spawn(async move {
                // A connection that fails ends; there is nobody to tell.
                serve(client, &setup, &pool).await.ok();
            });
        }
    })
}
