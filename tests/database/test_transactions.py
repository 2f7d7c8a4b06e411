"""Reading inside a transaction."""

from sqlalchemy import insert, select
from support import Service

from backend.database.engine import reading, transaction
from backend.database.service_tables import Total


def test_a_read_inside_a_transaction_sees_it_and_does_not_end_it(service: Service) -> None:
    with service.app.app_context():
        with transaction() as session:
            session.execute(insert(Total).values(event="reads", value=1))
            with reading() as same:
                assert same.scalar(select(Total.value).where(Total.event == "reads")) == 1
            session.execute(insert(Total).values(event="writes", value=2))
        with reading() as later:
            values = later.scalars(select(Total.value).order_by(Total.event)).all()
        assert values == [1, 2]
