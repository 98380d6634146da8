//! A server of names that says of every name what a test tells it.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record};
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// What the server says of every name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// It has these addresses, for [`NameServer::TTL`].
    Has(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// The server cannot tell.
    Fails,
}

/// A server of names on the port where such servers are. Dropped, it is gone.
pub struct NameServer {
    address: IpAddr,
    says: Arc<Mutex<Says>>,
    serving: AbortHandle,
}

impl NameServer {
    /// For how many seconds an answer may be remembered.
    pub const TTL: u32 = 1;

    /// One at this address, which may be any of 127.0.0.0/8.
    ///
    /// # Errors
    ///
    /// When the port may not be taken: on many machines, users may take ports from 1024 on only.
    pub async fn start_at(address: IpAddr, says: Says) -> io::Result<Self> {
        let socket = UdpSocket::bind((address, 53)).await?;
        let says = Arc::new(Mutex::new(says));
        let serving = tokio::spawn(serve(socket, says.clone())).abort_handle();
        Ok(Self { address, says, serving })
    }

    /// What it says from now on.
    pub fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// A resolv.conf that names this server alone.
    #[must_use]
    pub fn resolv_conf(&self) -> String {
        format!("nameserver {}\n", self.address)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(socket: UdpSocket, says: Arc<Mutex<Says>>) {
    let mut question = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else { continue };
        let Ok(question) = Message::from_vec(&question[..length]) else { continue };
        let answer = answer(&question, &says.lock().unwrap().clone());
        // Who asked may be gone.
        let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
    }
}

fn answer(question: &Message, says: &Says) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.iter().cloned());
    match says {
        Says::Has(addresses) => {
            for query in &question.queries {
                let found = addresses.iter().map(|address| RData::from(*address));
                let found = found.filter(|data| data.record_type() == query.query_type());
                let name = query.name().clone();
                answer.add_answers(
                    found.map(|data| Record::from_rdata(name.clone(), NameServer::TTL, data)),
                );
            }
        }
        Says::NoSuchName => answer.metadata.response_code = ResponseCode::NXDomain,
        Says::Fails => answer.metadata.response_code = ResponseCode::ServFail,
    }
    answer
}
